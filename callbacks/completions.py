"""Writes what the policy was asked, what it said, and what that was worth."""

# Shapes: K tasks in the step or batch, R rollouts.

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from bots_lightning.checkpoints import append_text, put_in_place, unfinished, writing
from bots_lightning.options import check_numbers
from bots_lightning.rollouts.segments import groups_of_rows
from bots_lightning.tasks import Task


class CompletionsLog(Callback):
    """Writes prompts, completions and rewards to `completions.jsonl` in the run folder, one completion a line.

    A line says whether its completion is `finished` or was cut at the longest length, and what each reward function
    gave it. The first training step is always written. Only the first rank writes. `predict` writes every completion,
    to `predictions.jsonl`, and what other ranks roll out to `predictions.rank-1.jsonl` and so on.

    Args:
        every_n_steps: how often a training step is written.
        max_tasks: how many of its tasks, with all their completions.

    Raises:
        ValueError: an option is out of bounds.
    """

    def __init__(self, every_n_steps: int = 10, max_tasks: int = 4) -> None:
        check_numbers(1, every_n_steps=every_n_steps)
        check_numbers(0, max_tasks=max_tasks)
        self.every_n_steps = every_n_steps
        self.max_tasks = max_tasks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops what an interrupted run wrote after the checkpoint that this one resumes from."""
        path = Path(trainer.default_root_dir) / "completions.jsonl"
        progress: Any = pl_module.progress
        if trainer.is_global_zero and path.is_file():
            _drop_after(path, progress.iterations)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes some tasks of every n-th step."""
        iteration = pl_module.progress.iterations  # type: ignore[union-attr]
        if trainer.is_global_zero and (iteration == 1 or iteration % self.every_n_steps == 0):  # type: ignore[operator]
            tasks = outputs["tasks"][: self.max_tasks]
            lines = _lines(tasks, outputs["group_of_row"], outputs, {"iteration": iteration})
            append_text(Path(trainer.default_root_dir) / "completions.jsonl", "".join(lines))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes what an earlier run predicted, also at ranks that this run does not have."""
        folder = Path(trainer.default_root_dir)
        (folder / _predictions(trainer)).unlink(missing_ok=True)
        if trainer.is_global_zero:
            for path in folder.glob("predictions.rank-*.jsonl"):
                rank = path.name.removeprefix("predictions.rank-").removesuffix(".jsonl")
                if rank.isdecimal() and int(rank) >= trainer.world_size:
                    path.unlink()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the whole batch."""
        lines = _lines(batch.tasks, groups_of_rows(outputs["counts"]), outputs, {})
        append_text(Path(trainer.default_root_dir) / _predictions(trainer), "".join(lines))


def _predictions(trainer: Trainer) -> str:
    """The name of this rank's file."""
    return "predictions.jsonl" if trainer.is_global_zero else f"predictions.rank-{trainer.global_rank}.jsonl"


def _drop_after(path: Path, iterations: int) -> None:
    """Rewrites the file without lines of later iterations, and without those that cannot be read."""
    damaged = 0
    with writing(path):
        with path.open("rb") as file, unfinished(path).open("wb") as kept:
            for line in file:  # in bytes, since completions may hold other line separators
                try:
                    keep = json.loads(line)["iteration"] <= iterations
                except (ValueError, TypeError, KeyError):
                    damaged += 1
                else:
                    kept.write(line.rstrip(b"\n") + b"\n" if keep else b"")
        put_in_place(path)
    if damaged:
        rank_zero_warn(f"{path}: {damaged} damaged line(s) left out, as a kill or a full disk leaves them.")


def _lines(tasks: Sequence[Task], group_of_row: Tensor, outputs: Any, head: dict[str, Any]) -> Iterator[str]:
    """One line for each completion of some tasks.

    Args:
        tasks: the first of the K.
        group_of_row: (R,) int64, each row's task.
        outputs: with R `completions`, `rewards` and `finished` (R,), and `scores`, (R,) by name.
        head: what each line starts with.
    """
    rewards, finished = outputs["rewards"].tolist(), outputs["finished"].tolist()
    for place, group in enumerate(group_of_row.tolist()):
        if group >= len(tasks):
            continue
        row = head | {
            "task_id": tasks[group].id,
            "group": tasks[group].group,
            "prompt": tasks[group].prompt,
            "answer": tasks[group].answer,
            "completion": outputs["completions"][place],
            "finished": finished[place],
            "reward": _number(rewards[place]),
            "rewards": {name: _number(float(scores[place])) for name, scores in outputs["scores"].items()},
        }
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _number(reward: float) -> float | None:
    return None if math.isnan(reward) else reward
