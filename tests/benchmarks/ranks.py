"""Memory and rollout time of several ranks under each strategy, on a model large enough to show the shards.

    python tests/benchmarks/ranks.py
    python tests/benchmarks/ranks.py --ranks 8 --accelerator cuda --hidden 2048 --layers 24

Full finetuning of a random Qwen2 in float32 with GRPO; completions end at a random token, so that lengths are uneven.
Each strategy runs in processes of its own. Memory is in MiB, of the rank that has most, above what it had before it
loaded the model: resident memory (Linux), or what PyTorch allocated on CUDA; held between steps, and at the peak of
either half of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, Qwen2Config

from bots_lightning.algorithms import GRPO, Experience, RolloutGroups, StepContext
from bots_lightning.beliefs import BetaBelief
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import Policy
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.rewards import Scorer
from bots_lightning.selection import ThompsonSelector
from bots_lightning.strategies import DataParallel, DeepSpeed
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.tasks.procedural import ALPHABET
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater

MIB = 2**20
BUCKET = 5_000_000  # elements: the default's buffers would hide the shards of a model this small
# What is freed goes back to the system at once, so that resident memory is what is held.
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_TRIM_THRESHOLD_": str(2**18)}
STRATEGIES: dict[str, Any] = {
    "ddp": DataParallel,
    "zero1": lambda: DeepSpeed(1, bucket_size=BUCKET),
    "zero2": lambda: DeepSpeed(2, bucket_size=BUCKET),
    "zero3": lambda: DeepSpeed(3, bucket_size=BUCKET),
}


class Meters(Callback):
    """Seconds of rollouts, and bytes above what the process had before it loaded the model."""

    def __init__(self) -> None:
        self.rollout: list[float] = []
        self.peaks = {"rollout": 0, "update": 0}
        self.held = 0
        self.before = memory_now()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        forget_peak()

    def phase_ends(self, name: str) -> None:
        """Keeps the phase's peak, and begins the next."""
        self.peaks[name] = max(self.peaks[name], memory_peak() - self.before)
        forget_peak()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.phase_ends("update")
        self.rollout.append(outputs["timings"]["rollout"])
        self.held = memory_now() - self.before


class Measured(GRPO):
    """Tells the meters where rollouts end and the update begins."""

    meters: Meters

    def prepare(self, groups: RolloutGroups, context: StepContext) -> tuple[Experience, dict[str, float]]:
        """What GRPO prepares."""
        self.meters.phase_ends("rollout")
        return super().prepare(groups, context)


def memory_now() -> int:
    """Bytes."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else _status("VmRSS")


def memory_peak() -> int:
    """The most bytes since `forget_peak`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status("VmHWM")


def forget_peak() -> None:
    """Begins anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def share_of_a(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """1 for completions with the letter a."""
    return [float("a" in completion) for completion in completions]


def worker(options: argparse.Namespace) -> None:
    """One rank of one run; the first writes what all have measured."""
    meters, algorithm = Meters(), Measured()
    algorithm.meters = meters
    module = OnlineModule(
        Policy(options.checkpoint, max_tokens_per_microbatch=128),  # activations would hide the shards
        Scorer([share_of_a]),
        Sampler(num_generations=4, max_prompt_length=32, max_completion_length=24),
        algorithm,
        Updater(),
        Evaluation(),
    )
    data = TaskDataModule(
        ProceduralTasks(64), ThompsonSelector(BetaBelief()), batch_size=4 * options.ranks, steps_per_epoch=options.steps
    )
    trainer = Trainer(
        default_root_dir=options.folder,
        accelerator=options.accelerator,
        devices=options.ranks,
        strategy=STRATEGIES[options.strategy](),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[meters],
    )
    trainer.fit(module, data)
    mine = {"held": meters.held, "peaks": meters.peaks, "rollout": sorted(meters.rollout)[len(meters.rollout) // 2]}
    everyone: list[Any] = [None] * options.ranks
    torch.distributed.all_gather_object(everyone, mine)
    if trainer.is_global_zero:
        Path(options.output).write_text(json.dumps(everyone))
    torch.distributed.destroy_process_group()


def save_checkpoint(folder: str, hidden: int, layers: int) -> int:
    """A random model and its tokenizer; the number of weights."""
    tokenizer = character_tokenizer(ALPHABET)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def main() -> None:
    """Runs every strategy and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--hidden", type=int, default=512, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    for hidden in ("--strategy", "--checkpoint", "--folder", "--output"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.strategy:
        worker(options)
        return
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        weights = save_checkpoint(f"{folder}/model", options.hidden, options.layers)
        table = Table("strategy", "held", "peak in rollouts", "peak in updates", "rollout, s a step", "against zero2")
        results = {}
        for strategy in options.strategies:
            console.print(f"{strategy} …")
            output = f"{folder}/{strategy}.json"
            given = {"strategy": strategy, "checkpoint": f"{folder}/model", "folder": folder, "output": output}
            given |= {"ranks": options.ranks, "accelerator": options.accelerator, "steps": options.steps}
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.ranks}", __file__]
            program = [sys.executable, *launcher, *(f"--{name}={value}" for name, value in given.items())]
            environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} | RETURN_MEMORY
            ended = subprocess.run(program, capture_output=True, text=True, env=environment)
            if ended.returncode:
                sys.exit(ended.stderr[-3000:])
            results[strategy] = json.loads(Path(output).read_text())
        for strategy, ranks in results.items():
            rollout = max(rank["rollout"] for rank in ranks)
            ratio = rollout / max(rank["rollout"] for rank in results["zero2"]) if "zero2" in results else float("nan")
            columns = [[rank["held"], rank["peaks"]["rollout"], rank["peaks"]["update"]] for rank in ranks]
            largest = [f"{max(column) / MIB:,.0f}" for column in zip(*columns, strict=True)]
            table.add_row(strategy, *largest, f"{rollout:.2f}", f"{ratio:.2f}")
    console.print(
        f"{weights / 1e6:.0f} million weights, {4 * weights / MIB:,.0f} MiB in float32; {options.ranks} ranks"
    )
    console.print(table)


if __name__ == "__main__":
    main()
