"""Trains a tiny policy under one strategy after another and writes what each run did; started by `torchrun` or alone.

torchrun --nproc_per_node 2 tests/assets/ranks.py CHECKPOINT OUTPUT.json ddp zero1 zero2 zero3
python tests/assets/ranks.py CHECKPOINT OUTPUT.json single
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.beliefs import BetaBelief
from bots_lightning.checkpoints import AtomicCheckpointIO
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA
from bots_lightning.selection import ThompsonSelector
from bots_lightning.strategies import DataParallel, DeepSpeed, whole_model
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import StepFailedError
from callbacks import GracefulStop

STEPS = 3
STRATEGIES = {
    "single": lambda: "auto",
    "ddp": DataParallel,
    "zero1": lambda: DeepSpeed(1),
    "zero2": lambda: DeepSpeed(2),
    "zero3": lambda: DeepSpeed(3),
    "zero3_offload": lambda: DeepSpeed(3, offload_optimizer=True, offload_parameters=True),
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo-lora": {"lora": LoRA(r=4, alpha=8)},
    "grpo-full": {"lora": None, "kl_coef": 0.1},
    "grpo-parts": {"lora": LoRA(r=4, alpha=8), "max_tokens_per_microbatch": 60, "loss_type": "dapo"},
    "grpo-recomputed": {"lora": LoRA(r=4, alpha=8), "gradient_checkpointing": True},
    "grpo-faulty": {"lora": LoRA(r=4, alpha=8)},
    "grpo-failing": {"lora": LoRA(r=4, alpha=8)},
    "grpo-short": {"lora": LoRA(r=4, alpha=8)},
    "grpo-ahead": {"lora": None, "max_staleness": 1, "num_iterations": 2},
    "ppo-lora": {"lora": LoRA(r=4, alpha=8), "kl_coef": 0.1, "num_ppo_epochs": 2},
    "ppo-full": {"lora": None, "num_ppo_epochs": 2},
}


class Faulty(GRPO):
    """The last rank's loss is NaN in the second iteration."""

    def losses(self, *args: Any) -> Iterator[torch.Tensor]:
        """Those of GRPO, but for that one."""
        at_fault = self.progress.iterations == 1 and self.global_rank == self.trainer.world_size - 1
        for loss in super().losses(*args):
            yield loss * (torch.nan if at_fault else 1.0)


class Failing(GRPO):
    """The last rank's reward function fails in the second iteration, once."""

    failed = False

    def _attempt(self, *args: Any) -> Any:
        """As of GRPO, but for that one."""
        if self.progress.iterations == 1 and self.global_rank == self.trainer.world_size - 1 and not Failing.failed:
            Failing.failed = True
            raise ConnectionError("no judge is left")
        return super()._attempt(*args)


class Short(GRPO):
    """The last rank lacks memory for a whole mini-batch in the second iteration."""

    def losses(self, part: Any, *args: Any) -> Iterator[torch.Tensor]:
        """Those of GRPO; the error comes when a gradient is there already."""
        at_fault = self.progress.iterations == 1 and self.global_rank == self.trainer.world_size - 1
        yield from super().losses(part, *args)
        if at_fault and self.max_tokens_per_microbatch is None:
            raise torch.OutOfMemoryError("CUDA out of memory")


class Diary(Callback):
    """Losses, draws and gradient norms of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        names = ("loss", "grad_norm", "reward", "entropy")
        figures = {name: float(trainer.callback_metrics[name]) for name in names}
        shares = [list(zip(batch.positions, batch.indices, strict=True))]
        if trainer.world_size > 1:
            shares = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(shares, list(zip(batch.positions, batch.indices, strict=True)))
        draws = [index for _, index in sorted(place for share in shares for place in share)]
        self.steps.append(figures | {"draws": draws})


def letters(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """1 for completions with an early letter in them."""
    return [float(any(letter in completion for letter in "abcd")) for completion in completions]


def fit(
    module: Any, strategy: str, steps: int, folder: str | Path, callbacks: list[Callback], path: Path | None = None
) -> Trainer:
    """A run of so many steps on all ranks of this program, from a checkpoint if there is a path; its trainer."""
    data = TaskDataModule(ProceduralTasks(24), ThompsonSelector(BetaBelief()), batch_size=4, steps_per_epoch=steps)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        strategy=STRATEGIES[strategy](),
        plugins=[AtomicCheckpointIO()],
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
    )
    trainer.fit(module, data, ckpt_path=path)
    return trainer


# A backward pass cannot be made again by one rank of DeepSpeed; under ZeRO-3 there is no whole policy to copy.
NOT_UNDER = {
    "grpo-short": ("zero1", "zero2", "zero3", "zero3_offload"),
    "grpo-ahead": ("zero3", "zero3_offload"),
}
CLASSES = {"grpo-faulty": Faulty, "grpo-failing": Failing, "grpo-short": Short}


def run(checkpoint: str, strategy: str, name: str, folder: Path) -> dict[str, Any]:
    """One run: the diary, the posterior, and the trained weights."""
    algorithm = CLASSES.get(name, PPO if name.startswith("ppo") else GRPO)
    options = {"learning_rate": 3e-3, "lr_scheduler_type": "constant", "num_generations": 4, "check_ranks_every": 1}
    options |= ALGORITHMS[name]
    diary, path = Diary(), None

    def policy() -> Any:
        return algorithm(checkpoint, [letters], max_prompt_length=32, max_completion_length=8, **options)

    if name == "grpo-failing":
        with suppress(StepFailedError):
            fit(policy(), strategy, STEPS, folder, [diary, GracefulStop()])
        path = folder / "checkpoints" / "last.ckpt"
    module = policy()
    trainer = fit(module, strategy, STEPS, folder, [diary], path)
    with whole_model(trainer.strategy):
        weights = {n: w.detach().flatten().tolist() for n, w in module.named_parameters() if w.requires_grad}
    posterior = trainer.datamodule.selector.belief.mean().tolist()
    return {"steps": diary.steps, "posterior": posterior, "weights": weights}


def main(checkpoint: str, output: str, *strategies: str) -> None:
    """Runs all algorithms under each strategy."""
    torch.set_num_threads(1)
    folder, results = Path(output).with_suffix(""), {}
    for strategy in strategies:
        Failing.failed = False
        results[strategy] = {
            name: run(checkpoint, strategy, name, folder / strategy / name)
            for name in ALGORITHMS
            if strategy not in NOT_UNDER.get(name, ())
        }
    if int(os.environ.get("RANK", 0)) == 0:
        Path(output).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
