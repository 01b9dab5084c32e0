"""Whole runs of GRPO on a tiny policy: tasks with reference pass rates, a selector that needs them, a quiet trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from bots_lightning.beliefs import BetaBelief, ReferenceInterpolation
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import TaskSelector, ThompsonSelector
from bots_lightning.tasks import ProceduralTasks, TaskPool, TaskSource
from bots_lightning.training import OnlineModule
from callbacks import EffectiveTaskRatio

NewModule = Callable[..., OnlineModule]


class Tasks(TaskSource):
    """Some procedural tasks, with reference pass rates that a test may choose."""

    def __init__(self, num_tasks: int = 24, weak: float | None = 0.2, strong: float | None = 0.7) -> None:
        self.num_tasks, self.weak, self.strong = num_tasks, weak, strong

    def load(self) -> TaskPool:
        pool = ProceduralTasks(self.num_tasks).load()
        rates = {"weak": [self.weak] * len(pool), "strong": [self.strong] * len(pool)}
        rates = {name: [math.nan if value is None else value for value in column] for name, column in rates.items()}
        return pool.with_columns(rates, references=list(rates))


def bots() -> ThompsonSelector:
    return ThompsonSelector(BetaBelief(implicit=ReferenceInterpolation("weak", "strong")))


def data(selector: TaskSelector | None = None, source: TaskSource | None = None, **overrides: Any) -> TaskDataModule:
    options: dict[str, Any] = {"batch_size": 4, "steps_per_epoch": 4}
    return TaskDataModule(source or Tasks(), selector or bots(), **options | overrides)


def trainer(folder: Path, **overrides: Any) -> Trainer:
    options: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "max_steps": 4,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "log_every_n_steps": 1,
    }
    return Trainer(**options | overrides)


def weights(module: OnlineModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class RewardLog(EffectiveTaskRatio):
    """Keeps the mean reward and the loss of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self.rewards.append(float(args[2]["rewards"].mean()))
        self.losses.append(float(args[2]["loss"]))
