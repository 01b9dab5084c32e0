"""What was asked and said can be read from the log, each completion with its own reward."""

# Shapes: three tasks, of 2, 1 and 3 rollouts in UNEQUAL.

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.checkpoints import CheckpointError
from bots_lightning.data import TaskBatch
from bots_lightning.tasks import Task
from callbacks import CompletionsLog

CHAT = [{"role": "user", "content": "Grüße?\n"}]
TASKS = [Task("a", "1+1=", "2", "maths"), Task("b", CHAT, "é"), Task("c", "3", "3", "maths")]
BATCH = TaskBatch([0, 1, 2], TASKS, [0, 1, 2], [2, 2, 2])
OUTPUTS = {
    "tasks": TASKS,
    "completions": ["2", "3", "é", "", "x\u2028y", '"}'],
    "rewards": torch.tensor([1.0, 0.0, 0.25, float("nan"), 0.0, -1.0]),
    "finished": torch.tensor([True, True, False, True, True, True]),
    "scores": {"exact": np.array([1.0, 0.0, 0.0, np.nan, 0.0, -1.0]), "short": np.array([0.0, 0, 0.5, np.nan, 0, 0])},
    "group_of_row": torch.tensor([0, 0, 1, 1, 2, 2]),
    "counts": [2, 2, 2],
}
UNEQUAL = OUTPUTS | {"group_of_row": torch.tensor([0, 0, 1, 2, 2, 2]), "counts": [2, 1, 3]}


def trainer(folder: Path, first: bool = True) -> Any:
    return SimpleNamespace(default_root_dir=str(folder), is_global_zero=first)


def train(
    callback: CompletionsLog, folder: Path, iterations: range, first: bool = True, outputs: Any = OUTPUTS
) -> None:
    for iteration in iterations:
        module: Any = SimpleNamespace(progress=SimpleNamespace(iterations=iteration))
        callback.on_train_batch_end(trainer(folder, first), module, outputs, TaskBatch([0], TASKS[:1], [0], [2]), 0)


def resume(folder: Path, iterations: int) -> None:
    module: Any = SimpleNamespace(progress=SimpleNamespace(iterations=iterations))
    CompletionsLog(every_n_steps=1).on_train_start(trainer(folder), module)


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
        "finished": True,
        "reward": None,
        "rewards": {"exact": None, "short": None},
    }


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    callback = CompletionsLog(every_n_steps=1)
    train(callback, tmp_path, range(1, 6))
    module: Any = SimpleNamespace(progress=SimpleNamespace(iterations=3))
    callback.on_train_start(trainer(tmp_path), module)
    rows = read(tmp_path / "completions.jsonl")
    assert [row["iteration"] for row in rows] == [1] * 6 + [2] * 6 + [3] * 6
    assert rows[4]["completion"] == "x\u2028y"


@pytest.mark.parametrize("torn", ['{"iteration": 3, "compl', "{}", "7", '"x"', "\0\0", '{"iteration": null}'])
@pytest.mark.parametrize("place", [0, 6, 18])
def test_a_torn_line_is_left_out_with_a_warning_wherever_it_is(place: int, torn: str, tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=1), tmp_path, range(1, 4))
    path = tmp_path / "completions.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    end = "" if place == 18 else "\n"
    path.write_text("\n".join([*lines[:place], torn, *lines[place:]]) + end, encoding="utf-8")
    with pytest.warns(UserWarning, match=r"completions\.jsonl: 1 damaged line"):
        resume(tmp_path, 2)
    assert path.read_text(encoding="utf-8") == "".join(f"{line}\n" for line in lines[:12])


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=1), tmp_path, range(1, 2))
    path = tmp_path / "completions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    resume(tmp_path, 1)
    assert path.read_bytes() == whole


def test_a_kill_while_lines_are_dropped_leaves_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(CompletionsLog(every_n_steps=1), tmp_path, range(1, 4))
    before = (tmp_path / "completions.jsonl").read_bytes()
    monkeypatch.setattr(json, "loads", lambda line: sys.exit("killed"))
    with pytest.raises(SystemExit):
        resume(tmp_path, 2)
    assert (tmp_path / "completions.jsonl").read_bytes() == before


def test_a_full_disk_is_told_in_a_line_and_leaves_whole_lines(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the end of a disk."""
    callback, path = CompletionsLog(every_n_steps=1), tmp_path / "completions.jsonl"
    train(callback, tmp_path, range(1, 3))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"completions\.jsonl could not be written .* Make room"):
            train(callback, tmp_path, range(3, 4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def test_a_line_says_whether_the_completion_was_cut_and_what_each_function_gave(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=1), tmp_path, range(7, 8))
    rows = read(tmp_path / "completions.jsonl")
    assert [row["finished"] for row in rows] == [True, True, False, True, True, True]
    assert [row["rewards"] for row in rows[2:4]] == [{"exact": 0.0, "short": 0.5}, {"exact": None, "short": None}]


def test_the_first_step_is_always_written(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=3), tmp_path, range(1, 7))
    assert sorted({row["iteration"] for row in read(tmp_path / "completions.jsonl")}) == [1, 3, 6]


def test_every_nth_iteration_is_written_and_earlier_ones_are_kept(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=3), tmp_path, range(1, 8))
    train(CompletionsLog(every_n_steps=3), tmp_path, range(8, 10))  # a resumed run
    rows = read(tmp_path / "completions.jsonl")
    assert [row["iteration"] for row in rows] == [1] * 6 + [3] * 6 + [6] * 6 + [9] * 6


def test_some_tasks_are_written_with_all_their_completions(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=1, max_tasks=2), tmp_path, range(1, 2))
    assert [row["task_id"] for row in read(tmp_path / "completions.jsonl")] == ["a", "a", "b", "b"]


def test_tasks_of_unequal_numbers_of_rollouts_keep_their_own_completions(tmp_path: Path) -> None:
    train(CompletionsLog(every_n_steps=1), tmp_path, range(1, 2), outputs=UNEQUAL)
    train(CompletionsLog(every_n_steps=1, max_tasks=2), tmp_path / "two", range(1, 2), outputs=UNEQUAL)
    callback = CompletionsLog()
    callback.on_predict_batch_end(trainer(tmp_path), None, UNEQUAL, BATCH, 0)  # type: ignore[arg-type]
    paths = ["completions.jsonl", "predictions.jsonl", "two/completions.jsonl"]
    expected = list(zip("aabccc", OUTPUTS["completions"], [1.0, 0.0, 0.25, None, 0.0, -1.0], strict=True))
    for path, rows in zip(paths, [expected, expected, expected[:3]], strict=True):
        assert [(row["task_id"], row["completion"], row["reward"]) for row in read(tmp_path / path)] == rows


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


def test_every_rank_keeps_its_own_predictions(tmp_path: Path) -> None:
    callback = CompletionsLog()
    for world_size in (3, 2):
        ranks = [SimpleNamespace(**vars(trainer(tmp_path, rank == 0)), global_rank=rank) for rank in range(world_size)]
        for rank in ranks:
            rank.world_size = world_size
            callback.on_predict_start(rank, None)  # type: ignore[arg-type]
        for number, rank in enumerate(ranks):
            outputs = OUTPUTS | {"completions": [str(number)] * 6}
            callback.on_predict_batch_end(rank, None, outputs, BATCH, 0)  # type: ignore[arg-type]
    names = ["predictions.jsonl", "predictions.rank-1.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [{row["completion"] for row in read(tmp_path / name)} for name in names] == [{"0"}, {"1"}]


def test_a_negative_number_of_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tasks=-1; expected at least 0"):
        CompletionsLog(max_tasks=-1)


@pytest.mark.parametrize("every_n_steps", [0, -1])
def test_an_interval_below_one_is_refused(every_n_steps: int) -> None:
    with pytest.raises(ValueError, match=f"every_n_steps={every_n_steps}; expected at least 1"):
        CompletionsLog(every_n_steps=every_n_steps)
