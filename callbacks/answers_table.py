"""A few held-out questions with the policy's answers, before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bots_lightning.options import check_numbers
from bots_lightning.tasks import Task

Answer = tuple[str, bool]  # a completion, and whether it solves its task


class AnswersTable(Callback):
    """Prints some held-out tasks with what the policy said before training and in the last evaluation of the loop.

    (An evaluation that is made after the last step because none was due calls no callbacks.) The tasks lie at equal
    distances in the first held-out pool, whatever was said of them; of several completions it takes the first. With
    several ranks the first one shows those that it has evaluated.

    Args:
        num_tasks: how many.
        width: characters of a question and of a completion, beyond which they are cut.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(self, num_tasks: int = 5, width: int = 60) -> None:
        check_numbers(1, num_tasks=num_tasks, width=width)
        self.num_tasks, self.width = num_tasks, width
        self.before: dict[int, Answer] = {}
        self.after: dict[int, Answer] = {}
        self._tasks: dict[int, Task] = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the answers of the chosen tasks."""
        if dataloader_idx or not trainer.is_global_zero:
            return
        pools: Any = trainer.datamodule.eval_pools  # type: ignore[attr-defined]
        size = len(next(iter(pools.values())))
        chosen = np.linspace(0, size, min(self.num_tasks, size), endpoint=False).astype(int).tolist()
        rows = np.cumsum([0, *outputs["counts"]]).tolist()
        for index, task, row in zip(batch.indices, batch.tasks, rows, strict=False):
            if index in chosen:
                answer = outputs["completions"][row], bool(outputs["evidence"][row] >= 1 - 1e-6)
                self._tasks[index], self.after[index] = task, answer
                if pl_module.progress.iterations == 0:  # type: ignore[union-attr]
                    self.before[index] = answer

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table."""
        if self._tasks:
            Console().print(self.table())

    def table(self) -> Table:
        """The questions with both answers, those that solve their task in green."""
        table = Table(show_edge=False, pad_edge=False)
        for column in ("question", "expected", "before", "after"):
            table.add_column(column)
        for index, task in sorted(self._tasks.items()):
            said = (self._shown(answers.get(index)) for answers in (self.before, self.after))
            table.add_row(Text(self._cut(question_of(task))), Text(self._cut(task.answer)), *said)
        return table

    def _shown(self, answer: Answer | None) -> Text:
        if answer is None:
            return Text("–")
        return Text(self._cut(answer[0]), style="green" if answer[1] else "red")

    def _cut(self, text: str) -> str:
        line = " ".join(text.split())
        return line if len(line) <= self.width else f"{line[: self.width - 1]}…"

    def state_dict(self) -> dict[str, Any]:
        """The answers before training."""
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes them from the run that this one continues."""
        self.before = {index: (answer[0], answer[1]) for index, answer in state_dict["before"].items()}


def question_of(task: Task) -> str:
    """What a task asks: its prompt, or the last message of the user."""
    if isinstance(task.prompt, str):
        return task.prompt
    return next(message["content"] for message in reversed(task.prompt) if message["role"] == "user")
