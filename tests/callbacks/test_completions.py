"""What was asked and said can be read from the log, each completion beside its own reward."""

# Shapes: B tasks, G rollouts per task.

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bots_lightning.data import TaskBatch
from bots_lightning.tasks import Task
from callbacks import CompletionsLog

CHAT = [{"role": "user", "content": "Grüße?\n"}]
TASKS = [Task("a", "1+1=", "2", "maths"), Task("b", CHAT, "é"), Task("c", "3", "3", "maths")]
BATCH = TaskBatch([0, 1, 2], TASKS, [0, 1, 2])
OUTPUTS = {
    "tasks": TASKS,
    "completions": ["2", "3", "é", "", "x\u2028y", '"}'],
    "rewards": torch.tensor([[1.0, 0.0], [0.25, float("nan")], [0.0, -1.0]]),
}


def trainer(folder: Path, first: bool = True) -> Any:
    return SimpleNamespace(default_root_dir=str(folder), is_global_zero=first)


def train(callback: CompletionsLog, folder: Path, iterations: range, first: bool = True) -> None:
    for iteration in iterations:
        module: Any = SimpleNamespace(progress=SimpleNamespace(iterations=iteration))
        callback.on_train_batch_end(trainer(folder, first), module, OUTPUTS, TaskBatch([0], TASKS[:1], [0]), 0)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_every_completion_has_a_line_with_its_task_and_its_reward(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=1), tmp_path / "run", range(7, 8))
    rows = read(tmp_path / "run" / "completions.jsonl")
    assert [(r["task_id"], r["completion"], r["reward"]) for r in rows] == [
        ("a", "2", 1.0),
        ("a", "3", 0.0),
        ("b", "é", 0.25),
        ("b", "", None),  # no reward function applied
        ("c", "x\u2028y", 0.0),
        ("c", '"}', -1.0),
    ]
    assert rows[3] == {
        "iteration": 7,
        "task_id": "b",
        "group": "",
        "prompt": CHAT,
        "answer": "é",
        "completion": "",
        "reward": None,
    }


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    callback = CompletionsLog(every_n_steps=1)
    train(callback, tmp_path, range(1, 6))
    module: Any = SimpleNamespace(progress=SimpleNamespace(iterations=3))
    callback.on_train_start(trainer(tmp_path), module)
    rows = read(tmp_path / "completions.jsonl")
    assert [row["iteration"] for row in rows] == [1] * 6 + [2] * 6 + [3] * 6
    assert rows[4]["completion"] == "x\u2028y"


def test_every_nth_iteration_is_written_and_earlier_ones_are_kept(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=3), tmp_path, range(1, 8))
    train(CompletionsLog(every_n_steps=3), tmp_path, range(8, 10))  # a resumed run
    rows = read(tmp_path / "completions.jsonl")
    assert [row["iteration"] for row in rows] == [3] * 6 + [6] * 6 + [9] * 6


def test_some_tasks_are_written_with_all_their_completions(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=1, max_tasks=2), tmp_path, range(1, 2))
    assert [row["task_id"] for row in read(tmp_path / "completions.jsonl")] == ["a", "a", "b", "b"]


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=1), tmp_path, range(1, 3), first=False)
    assert list(tmp_path.iterdir()) == []


def test_predictions_are_whole_and_start_afresh(tmp_path: Path) -> None:
    callback = CompletionsLog(every_n_steps=50, max_tasks=1)
    for _ in range(2):
        callback.on_predict_start(trainer(tmp_path), None)  # type: ignore[arg-type]
        for batch_idx in range(2):
            callback.on_predict_batch_end(trainer(tmp_path), None, OUTPUTS, BATCH, batch_idx)  # type: ignore[arg-type]
    rows = read(tmp_path / "predictions.jsonl")
    assert [row["completion"] for row in rows] == 2 * OUTPUTS["completions"]  # type: ignore[operator]
    assert "iteration" not in rows[0]


@pytest.mark.parametrize("every_n_steps", [0, -1])
def test_an_interval_below_one_is_refused(every_n_steps: int) -> None:
    with pytest.raises(ValueError, match=f"every_n_steps={every_n_steps}; expected at least 1"):
        CompletionsLog(every_n_steps=every_n_steps)
