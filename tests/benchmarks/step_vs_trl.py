"""Seconds of a GRPO step and tokens per second, beside TRL's `GRPOTrainer` on the same model and prompts.

    python tests/benchmarks/step_vs_trl.py
    python tests/benchmarks/step_vs_trl.py --only 1 --repeats 9 --output step_vs_trl.json

Both train the same LoRA in float32 on the CPU with the same AdamW, schedule, loss, rewards and sampling, and take the
same prompts in the same order: one optimizer step for each batch of rollouts, all of them in one micro-batch. Neither
has a KL penalty, gradient checkpointing, dropout, logger, checkpoint, progress bar or evaluation. Every run is a
process of its own; the two alternate, so that a busy machine slows both, and the first steps are left out. A
step lasts from the end of one optimizer step to the end of the next. What counts is the ratio within each pair of runs,
of the medians over their steps, by the processor's time, which other programs disturb least, and by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from bots_lightning.algorithms import GRPO
from bots_lightning.algorithms.step import PHASES
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA, Policy
from bots_lightning.quickstart import QuickstartTasks, SmolLM2, WarmStart
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.rewards import Scorer, exact_match
from bots_lightning.selection import TaskSelector
from bots_lightning.tasks import ProceduralTasks, QuestionTasks, TaskPool, TaskSource
from bots_lightning.tasks.procedural import ALPHABET
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater

OURS, TRL = "ours", "trl"
LEARNING_RATE = 2e-3
MICROBATCH = 2048  # tokens of ours, prompts and padding included: what a core's cache holds


def share_of_letters(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Differs within every group, so that every completion has an advantage."""
    return [sum(map(str.isalpha, completion)) / max(1, len(completion)) for completion in completions]


def tasks_half_solved(count: int) -> TaskPool:
    """What the quickstart's selector looks for: the tasks that its reference models solve half of the time."""
    pool = QuickstartTasks(num_tasks=3000).load()
    rates = np.mean(list(pool.features().references.values()), axis=0)
    return pool.select(np.argsort(np.abs(rates - 0.5), kind="stable")[:count])


def any_tasks(count: int) -> TaskPool:
    """Easy and hard ones."""
    return ProceduralTasks(count).load()


def questions(count: int) -> TaskPool:
    """Short questions, rendered by SmolLM2's chat template."""
    tokenizer = AutoTokenizer.from_pretrained(SmolLM2().prepare())
    pool = QuestionTasks(count, shots=1, system_prompt="Answer with nothing but the answer.").load()
    render = partial(tokenizer.apply_chat_template, add_generation_prompt=True, tokenize=False)
    rows = [{"id": task.id, "prompt": render(task.prompt), "answer": task.answer} for task in pool]
    return TaskPool.from_rows(rows, name="questions")


def larger_model(folder: str) -> str:
    """A Qwen3 with random weights, ten times as many as the quickstart's."""
    tokenizer = character_tokenizer(ALPHABET)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=80,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Workload:
    """What both do in a step.

    Attributes:
        name: what it stands for.
        model: (folder to use) to the checkpoint's folder.
        tasks: (number) to so many tasks.
        reward: in TRL's signature.
        num_prompts: of a step.
        n: completions per prompt.
        limit: max_completion_length.
        rows: of a micro-batch of TRL's; a divisor of all.
        target: the largest ratio of our seconds to TRL's.
    """

    name: str
    model: Callable[[str], str]
    tasks: Callable[[int], TaskPool]
    reward: Callable[..., list[float | None]] | Callable[..., list[float]]
    num_prompts: int
    n: int
    limit: int
    rows: int
    target: float


WORKLOADS = (
    Workload("quickstart", lambda _: WarmStart().prepare(), tasks_half_solved, exact_match, 32, 16, 12, 64, 0.5),
    Workload("10 x larger, 64 tokens", larger_model, any_tasks, share_of_letters, 8, 16, 64, 32, 0.8),
    Workload("SmolLM2-135M", lambda _: SmolLM2().prepare(), questions, share_of_letters, 8, 8, 5, 64, 0.3),
)


# --- one run --------------------------------------------------------------------------------------------------------


class Laps:
    """What the clock and the processor show at the end of every step, and the tokens of each."""

    def __init__(self) -> None:
        self.clock: list[float] = []
        self.processor: list[float] = []
        self.tokens: list[int] = []

    def step_ends(self) -> None:
        """Looks at both."""
        self.clock.append(time.perf_counter())
        self.processor.append(time.process_time())

    def medians(self, warm_up: int) -> dict[str, float]:
        """Of a step's seconds by either, and of its tokens per second by the clock, after so many steps."""
        clock, processor = (np.diff(times)[warm_up - 1 :] for times in (self.clock, self.processor))
        speed = float(np.median(np.array(self.tokens[warm_up:]) / clock))
        return {"clock": float(np.median(clock)), "processor": float(np.median(processor)), "tokens_per_second": speed}


class InOrder(TaskSelector):
    """The pool from first to last."""

    def setup(self, features: Any, seed: int = 0) -> None:
        """Starts at the first."""
        super().setup(features, seed)
        self.cursor = 0

    def select(self, batch_size: int) -> np.ndarray:
        """(B,) the next ones."""
        self.cursor += batch_size
        return np.arange(self.cursor - batch_size, self.cursor)


class Source(TaskSource):
    """A pool that is there already."""

    def __init__(self, pool: TaskPool) -> None:
        self.pool = pool

    def load(self) -> TaskPool:
        """That pool."""
        return self.pool


class Stopwatch(Callback):
    """Keeps the laps of our steps, and their phases."""

    def __init__(self) -> None:
        self.laps = Laps()
        self.phases: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """A step is over."""
        self.laps.step_ends()
        self.laps.tokens.append(outputs["num_tokens"])
        self.phases.append(outputs["timings"])


def run_ours(workload: Workload, model: str, pool: TaskPool, folder: str, options: argparse.Namespace) -> Any:
    """Medians of our steps, and of their phases."""
    module = OnlineModule(
        Policy(model, LoRA(), max_tokens_per_microbatch=None if options.whole else MICROBATCH),
        Scorer([workload.reward]),
        Sampler(workload.n, max_prompt_length=128, max_completion_length=workload.limit),
        GRPO(loss_type="grpo"),
        Updater(LEARNING_RATE),
        Evaluation(),
    )
    stopwatch = Stopwatch()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[stopwatch],
    )
    trainer.fit(module, TaskDataModule(Source(pool), InOrder(), workload.num_prompts))
    steps = stopwatch.phases[options.warm_up :]
    phases = {phase: median(step[phase] for step in steps) for phase in PHASES}
    return stopwatch.laps.medians(options.warm_up) | {"phases": phases}


def run_trl(workload: Workload, model: str, pool: TaskPool, folder: str, options: argparse.Namespace) -> Any:
    """Medians of TRL's steps."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    laps = Laps()

    class StepEnds(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            laps.step_ends()

    def reward(completion_ids: list[list[int]], **columns: Any) -> Any:
        laps.tokens.append(sum(map(len, completion_ids)))
        return workload.reward(**columns)

    rows = workload.num_prompts * workload.n if options.whole else workload.rows
    micro_batches = workload.num_prompts * workload.n // rows
    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=micro_batches,
        steps_per_generation=micro_batches,
        num_train_epochs=1,
        num_generations=workload.n,
        max_completion_length=workload.limit,
        shuffle_dataset=False,
        loss_type="grpo",
        beta=0.0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="linear",
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": task.prompt, "answer": task.answer} for task in pool]),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        peft_config=LoRA().peft_config(),
        callbacks=[StepEnds()],
    )
    trainer.train()
    return laps.medians(options.warm_up)


def worker(options: argparse.Namespace) -> None:
    """One run of one of the two."""
    torch.set_num_threads(options.threads)
    workload, run = WORKLOADS[options.only], {OURS: run_ours, TRL: run_trl}[options.worker]
    pool = workload.tasks(options.steps * workload.num_prompts)
    with tempfile.TemporaryDirectory() as folder:
        result = run(workload, options.model, pool, folder, options)
    Path(options.output).write_text(json.dumps(result))


# --- all runs -------------------------------------------------------------------------------------------------------


def measured(name: str, number: int, model: str, options: argparse.Namespace) -> Any:
    """What a run in a process of its own has found."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        given = {"worker": name, "only": number, "model": model, "output": output, "steps": options.steps}
        given |= {"warm_up": options.warm_up, "threads": options.threads}
        program = [sys.executable, __file__, *(f"--{key}={value}" for key, value in given.items())]
        program += ["--whole"] if options.whole else []
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
        ended = subprocess.run(program, capture_output=True, text=True, env=environment)
        if ended.returncode:
            sys.exit(ended.stderr[-3000:])
        return json.loads(output.read_text())


def compare(number: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both, alternating, on one workload; all medians, and the ratios of our seconds to TRL's."""
    workload = WORKLOADS[number]
    with tempfile.TemporaryDirectory() as folder:
        model = workload.model(folder)
        pairs = [
            {name: measured(name, number, model, options) for name in (OURS, TRL)}
            for _ in track(range(options.repeats), workload.name, transient=True)
        ]
    ratios = {by: [pair[OURS][by] / pair[TRL][by] for pair in pairs] for by in ("processor", "clock")}
    return {"workload": workload.name, "target": workload.target, "pairs": pairs, "ratios": ratios}


def middle(result: dict[str, Any], name: str, *keys: str) -> float:
    """Median over pairs of runs."""
    values = [pair[name] for pair in result["pairs"]]
    for key in keys:
        values = [value[key] for value in values]
    return median(values)


def spread(values: list[float]) -> str:
    """Median, least and most."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def show(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Seconds and ratios, then where our seconds go."""
    steps = f"{options.repeats} pairs of {options.steps - options.warm_up} steps, {options.threads} thread(s)"
    table = Table(title=f"a step of GRPO beside TRL's: {steps}")
    for column in ("workload", "TRL, s", "ours, s", "TRL, tokens/s", "ours", "ratio (processor)", "(clock)", "target"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    phases = Table("seconds of our step", *PHASES)
    for result in results:
        seconds = [f"{middle(result, name, 'processor'):.3f}" for name in (TRL, OURS)]
        speeds = [f"{middle(result, name, 'tokens_per_second'):,.0f}" for name in (TRL, OURS)]
        ratios = [spread(result["ratios"][by]) for by in ("processor", "clock")]
        table.add_row(result["workload"], *seconds, *speeds, *ratios, f"{result['target']:.2f}")
        phases.add_row(result["workload"], *(f"{middle(result, OURS, 'phases', phase):.3f}" for phase in PHASES))
    console = Console()
    console.print(table)
    console.print(phases)


def main() -> None:
    """Measures all workloads and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, choices=range(len(WORKLOADS)), help="One workload, by number.")
    parser.add_argument("--repeats", type=int, default=5, help="Runs of each.")
    parser.add_argument("--steps", type=int, default=12, help="Of each run.")
    parser.add_argument("--warm_up", type=int, default=2, help="Steps of those that do not count, at least 1.")
    parser.add_argument("--whole", action="store_true", help="One micro-batch a step, instead of several small ones.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", help="A JSON file for all results.")
    for hidden in ("--worker", "--model"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    numbers = range(len(WORKLOADS)) if options.only is None else [options.only]
    results = [compare(number, options) for number in numbers]
    show(results, options)
    if options.output:
        Path(options.output).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
