"""Writes what the policy was asked, what it said, and what that was worth."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn

from bots_lightning.checkpoints import append_text, put_in_place, unfinished, writing
from bots_lightning.tasks import Task


class CompletionsLog(Callback):
    """Writes prompts, completions and rewards to `completions.jsonl` in the run folder, one completion a line.

    Only the first rank writes. `predict` writes every completion, to `predictions.jsonl`, and what other ranks roll out
    to `predictions.rank-1.jsonl` and so on.

    Args:
        every_n_steps: how often a training step is written.
        max_tasks: how many of its tasks, with all their completions.
    """

    def __init__(self, every_n_steps: int = 10, max_tasks: int = 4) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}; expected at least 1.")
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
        if trainer.is_global_zero and iteration % self.every_n_steps == 0:  # type: ignore[operator]
            tasks = outputs["tasks"][: self.max_tasks]
            self._write(trainer, "completions.jsonl", tasks, outputs, {"iteration": iteration})

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the predictions' file of this rank afresh; the first rank removes those of ranks that are no more."""
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
        self._write(trainer, _predictions(trainer), batch.tasks, outputs, {})

    @staticmethod
    def _write(trainer: Trainer, name: str, tasks: Sequence[Task], outputs: Any, head: dict[str, Any]) -> None:
        path = Path(trainer.default_root_dir) / name
        append_text(path, "".join(_lines(tasks, outputs, head)))


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


def _lines(tasks: Sequence[Task], outputs: Any, head: dict[str, Any]) -> Iterator[str]:
    rewards = outputs["rewards"].tolist()
    generations = len(rewards[0])
    for b, task in enumerate(tasks):
        completions = outputs["completions"][b * generations : (b + 1) * generations]
        for completion, reward in zip(completions, rewards[b], strict=True):
            row = head | {
                "task_id": task.id,
                "group": task.group,
                "prompt": task.prompt,
                "answer": task.answer,
                "completion": completion,
                "reward": None if math.isnan(reward) else reward,
            }
            yield json.dumps(row, ensure_ascii=False) + "\n"
