"""The table shows the same held-out tasks before and after, right answers apart from wrong ones."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from bots_lightning.data import TaskBatch
from bots_lightning.tasks import Task
from callbacks import AnswersTable
from callbacks.answers_table import question_of

TASKS = [
    Task(str(i), [{"role": "system", "content": "S"}, {"role": "user", "content": f"{i}+1="}], f"{i + 1}")
    for i in range(10)
]


def evaluate(callback: AnswersTable, iterations: int, right: bool, rank: int = 0, loader: int = 0) -> None:
    """Two batches of five tasks of two completions each; the second completion is never the one that is shown."""
    trainer: Any = SimpleNamespace(
        is_global_zero=rank == 0, datamodule=SimpleNamespace(eval_pools={"held": TASKS, "other": TASKS[:3]})
    )
    module: Any = SimpleNamespace(progress=SimpleNamespace(iterations=iterations))
    for number in range(2):
        indices = list(range(5 * number, 5 * number + 5))
        tasks = [TASKS[index] for index in indices]
        said = [text for task in tasks for text in (task.answer if right else "so\n what", "second")]
        outputs = {"counts": [2] * 5, "completions": said, "evidence": torch.tensor([float(right), 0.0] * 5)}
        callback.on_validation_batch_end(
            trainer, module, outputs, TaskBatch(indices, tasks, indices, [2] * 5), number, loader
        )


def printed(callback: AnswersTable) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(callback.table())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_same_tasks_are_shown_before_and_after() -> None:
    callback = AnswersTable(num_tasks=5)
    evaluate(callback, 0, right=False)
    evaluate(callback, 3, right=False)
    evaluate(callback, 7, right=True)
    head, _, *rows = printed(callback).splitlines()
    assert [name.strip() for name in head.split("┃")] == ["question", "expected", "before", "after"]
    assert [row.split() for row in rows] == [
        [f"{i}+1=", "│", str(i + 1), "│", "so", "what", "│", str(i + 1)] for i in (0, 2, 4, 6, 8)
    ]
    styles = [
        (str(cell.style), str(other.style))
        for cell, other in zip(*(callback.table().columns[i]._cells for i in (2, 3)), strict=True)
    ]
    assert styles == [("red", "green")] * 5


def test_other_pools_and_other_ranks_are_left_out() -> None:
    callback = AnswersTable()
    evaluate(callback, 0, right=True, rank=1)
    evaluate(callback, 0, right=True, loader=1)
    assert printed(callback).strip().count("\n") == 1  # the head alone


def test_a_resumed_run_knows_what_was_said_before_and_a_run_without_has_a_dash() -> None:
    first, resumed, late = AnswersTable(2), AnswersTable(2), AnswersTable(2)
    evaluate(first, 0, right=False)
    resumed.load_state_dict(first.state_dict())
    for callback in (resumed, late):
        evaluate(callback, 9, right=True)
    assert "so what" in printed(resumed)
    assert "–" in printed(late)


def test_long_texts_are_cut_and_markup_is_not_read() -> None:
    callback = AnswersTable(1, width=12)
    callback._tasks[0], callback.after[0] = Task("a", "[bold]x[/bold] and more", "1"), ("[red]1", True)
    assert "[bold]x[/bo…" in printed(callback)
    assert "[red]1" in printed(callback)


def test_a_question_is_the_prompt_or_what_the_user_asked_last() -> None:
    shown = [("user", "first"), ("assistant", "1"), ("user", "second")]
    assert question_of(Task("a", [{"role": role, "content": text} for role, text in shown], "2")) == "second"
    assert question_of(Task("a", "plain", "2")) == "plain"


def test_options_out_of_range_are_errors() -> None:
    with pytest.raises(ValueError, match="num_tasks=0"):
        AnswersTable(0)
