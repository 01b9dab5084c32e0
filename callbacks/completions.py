"""Writes what the policy was asked, what it said, and what that was worth."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback

from bots_lightning.tasks import Task


class CompletionsLog(Callback):
    """Writes prompts, completions and rewards to `completions.jsonl` in the run folder, one completion a line.

    `predict` writes every completion, to `predictions.jsonl`. Only the first rank writes.

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
            lines = path.read_text(encoding="utf-8").split("\n")  # completions may hold other line separators
            kept = [line for line in lines if line and json.loads(line)["iteration"] <= progress.iterations]
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes some tasks of every n-th step."""
        iteration = pl_module.progress.iterations  # type: ignore[union-attr]
        if iteration % self.every_n_steps == 0:  # type: ignore[operator]
            tasks = outputs["tasks"][: self.max_tasks]
            self._write(trainer, "completions.jsonl", tasks, outputs, {"iteration": iteration})

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the predictions' file afresh."""
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / "predictions.jsonl").unlink(missing_ok=True)

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
        self._write(trainer, "predictions.jsonl", batch.tasks, outputs, {})

    @staticmethod
    def _write(trainer: Trainer, name: str, tasks: Sequence[Task], outputs: Any, head: dict[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            _write_rows(file, tasks, outputs, head)


def _write_rows(file: TextIO, tasks: Sequence[Task], outputs: Any, head: dict[str, Any]) -> None:
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
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
