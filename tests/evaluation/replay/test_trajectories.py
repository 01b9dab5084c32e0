# Shapes: N tasks, E recorded epochs.

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots_lightning.evaluation.replay.trajectories import read_trajectories

ROW = {"task_id": "a", "prompt": "1+1", "answer": "2", "reference_pass_rate": 0.75, "successes": [2, 8], "rollouts": 8}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_counts_and_references_are_read(tmp_path: Path) -> None:
    other = {"task_id": 7, "reference_pass_rate": None, "successes": [0, 3], "rollouts": 4}
    record = read_trajectories(write(tmp_path / "r.jsonl", ROW, "  ", other))
    assert record.ids == ["a", "7"]
    assert record.successes.tolist() == [[2, 8], [0, 3]]
    assert record.rollouts.tolist() == [8, 4]
    np.testing.assert_array_equal(record.reference, [0.75, np.nan])
    assert record.num_epochs == 2


def test_a_selector_learns_of_the_first_epoch_and_the_reference_only(tmp_path: Path) -> None:
    other = {"task_id": "b", "successes": [1, 3], "rollouts": 4}
    record = read_trajectories(write(tmp_path / "r.jsonl", ROW, other))
    features = record.features(weak_from_first_epoch=True)
    assert set(features.references) == {"weak_pass_rate", "strong_pass_rate"}
    np.testing.assert_array_equal(features.references["weak_pass_rate"], [2 / 8, 1 / 4])
    np.testing.assert_array_equal(features.references["strong_pass_rate"], [0.75, np.nan])
    assert set(record.features(weak_from_first_epoch=False).references) == {"strong_pass_rate"}


def test_a_reference_that_nobody_has_is_no_column(tmp_path: Path) -> None:
    record = read_trajectories(write(tmp_path / "r.jsonl", {"task_id": "b", "successes": [1], "rollouts": 4}))
    assert record.features(weak_from_first_epoch=False).references == {}


def test_the_record_cannot_be_rewritten(tmp_path: Path) -> None:
    record = read_trajectories(write(tmp_path / "r.jsonl", ROW))
    for array in (record.successes, record.rollouts, record.reference):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"task_id": "b", ', r"line 3: not JSON"),
        ("[1, 2]", r"line 3: a list, not an object"),
        (without("successes"), r"line 3: no 'successes' among"),
        (without("task_id"), r"line 3: no 'task_id' among"),
        (ROW | {"task_id": "b", "rollouts": 0}, r"line 3: rollouts=0; expected a whole number of at least 1"),
        (ROW | {"task_id": "b", "successes": []}, r"line 3: successes=\[\]; expected a list"),
        (ROW | {"task_id": "b", "successes": [2, 9]}, r"line 3: 9 successes in epoch 1 .* from 0 to rollouts=8"),
        (ROW | {"task_id": "b", "successes": [0.25, 1]}, r"line 3: 0.25 successes in epoch 0 .*counts, not pass rates"),
        (ROW | {"task_id": "b", "successes": [True, 1]}, r"line 3: True successes in epoch 0"),
        (ROW | {"task_id": "b", "successes": [1, 2, 3]}, r"line 3: successes of 3 epochs, .*line 1 cover 2"),
        (ROW | {"task_id": "b", "reference_pass_rate": 75}, r"line 3: reference_pass_rate=75; expected a pass rate"),
        (ROW, r"'a' \(.*line 1; .*line 3\)"),
        (ROW | {"task_id": None}, r"line 3: the id is null"),
    ],
)
def test_a_fault_is_named_with_its_line(row: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", ROW, "", row)
    with pytest.raises(ValueError, match=message):
        read_trajectories(path)


def test_a_missing_and_an_empty_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone.jsonl is not a file .* Correct --data"):
        read_trajectories(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match="holds no trajectories"):
        read_trajectories(write(tmp_path / "empty.jsonl", ""))
