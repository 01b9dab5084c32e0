# Shapes: E evaluations, T steps with an effective task ratio.

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots_lightning.evaluation.comparison.run_files import costs_at
from bots_lightning.evaluation.comparison.run_records import common_evaluations, read_run, read_runs

SUMMARY = {"seed": 0, "iterations": 4, "rollouts": 64, "effective_task_ratio": 0.75, "effective_tasks": 9.5}
STEPS = [
    {"step": 0, "eval/a/avg@2": 0.1, "eval/b/avg@2": 0.3, "eval/a/logic/avg@2": 0.9, "eval/a/pass@2": 0.9},
    {"step": 1, "num_tokens": 100, "num_rollouts": 10, "step_time": 2.0, "selection/effective_task_ratio": 0.5},
    {"step": 2, "num_tokens": 150, "num_rollouts": 30, "step_time": 1.0, "eval/a/avg@2": 0.2, "eval/b/avg@2": 0.6},
    {"step": 3, "num_tokens": 250, "num_rollouts": 40, "step_time": 3.0, "selection/effective_task_ratio": 1.0},
    {"step": 4, "num_tokens": 400, "num_rollouts": 64, "step_time": 2.0, "eval/a/avg@2": 0.5, "eval/b/avg@2": 0.5},
]


def write_run(
    folder: Path, seed: int = 0, rows: list[dict[str, Any]] = STEPS, without: tuple[str, ...] = (), **facts: object
) -> Path:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(SUMMARY | {"seed": seed} | facts))
    kept = [{name: value for name, value in row.items() if name not in without} for row in rows]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in kept for name in row)))
        writer.writeheader()
        writer.writerows(kept)
    return folder


def test_a_run_is_read(tmp_path: Path) -> None:
    record = read_run(write_run(tmp_path / "bots-7", seed=7))
    assert (record.method, record.seed) == ("bots", 7)
    assert record.score_columns == ("eval/a/avg@2", "eval/b/avg@2")  # full held-out sets, no groups
    assert record.iterations.tolist() == [0, 2, 4]
    assert record.scores.tolist() == pytest.approx([(0.1 + 0.3) / 2, (0.2 + 0.6) / 2, (0.5 + 0.5) / 2])
    assert {axis: costs.tolist() for axis, costs in record.costs.items()} == {
        "steps": [0, 2, 4],
        "rollouts": [0, 30, 64],
        "tokens": [0, 150, 400],
        "seconds": [0, 2 + 1, 2 + 1 + 3 + 2],
    }
    assert record.ratio_steps.tolist() == [1, 3]
    assert record.ratios.tolist() == [0.5, 1.0]
    assert record.ratio_rollouts.tolist() == [10, 40]
    assert record.summary["effective_tasks"] == 9.5
    assert record.summary["wall_seconds"] is None


def test_rollouts_that_were_not_logged_were_spent_evenly(tmp_path: Path) -> None:
    record = read_run(write_run(tmp_path / "old", without=("num_rollouts",)))
    assert record.costs["rollouts"].tolist() == [0, 2 * 64 / 4, 64]


def test_costs_between_logged_steps_are_interpolated() -> None:
    """Logged at every second step: a step that was not logged took as long as its neighbours on average."""
    rows = [{"step": 2, "num_tokens": 100.0, "step_time": 1.0}, {"step": 4, "num_tokens": 300.0, "step_time": 3.0}]
    costs = costs_at(rows, {"iterations": 4, "rollouts": 40}, np.array([0, 1, 2, 3, 4]))
    assert costs["tokens"].tolist() == [0, 50, 100, 200, 300]
    assert costs["seconds"].tolist() == [0, 1, 1 + 1, 1 + 1 + 2, 1 + 1 + 2 + 3]


def test_a_metric_may_be_the_score(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "bots")
    record = read_run(folder, score="selection/effective_task_ratio")
    assert (record.iterations.tolist(), record.scores.tolist()) == ([1, 3], [0.5, 1.0])
    with pytest.raises(ValueError, match=r"bots: metrics.csv has no 'eval/c/avg@2'; it has .*eval/a/logic/avg@2"):
        read_run(folder, score="eval/c/avg@2")


def test_an_evaluation_counts_if_every_held_out_set_has_a_number(tmp_path: Path) -> None:
    rows = [*STEPS[:4], {"step": 4, "eval/a/avg@2": 0.5, "eval/b/avg@2": "nan"}]
    assert read_run(write_run(tmp_path / "bots", rows=rows)).iterations.tolist() == [0, 2]
    rows = [{"step": 0, "eval/a/avg@2": 0.5, "eval/b/avg@2": "nan"}]
    with pytest.raises(ValueError, match=r"empty: no step has a value of eval/a/avg@2, eval/b/avg@2\. Evaluate during"):
        read_run(write_run(tmp_path / "empty", rows=rows))


@pytest.mark.parametrize(
    ("name", "seed", "method"),
    [
        ("bots-0", 0, "bots"),
        ("bots-1", 1, "bots"),
        ("bots-0-2", 0, "bots-0-2"),  # a second attempt at bots-0
        ("bots-2", 0, "bots-2"),  # a second run of `bots`
        ("bots-2", 2, "bots"),
        ("bots-10", 0, "bots-10"),
        ("bots", 0, "bots"),
    ],
)
def test_the_method_is_the_folder_without_its_seed(name: str, seed: int, method: str, tmp_path: Path) -> None:
    assert read_runs([f"{write_run(tmp_path / name, seed=seed)}/"])[0].method == method


def test_a_method_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("x/bots-0-2"))
    write_run(Path("lr=3"))
    assert [record.method for record in read_runs(["mine=x/bots-0-2", "lr=3", "other=lr=3"])] == [
        "mine",
        "lr=3",
        "other",
    ]
    with pytest.raises(ValueError, match="'=x' is neither a run folder nor METHOD=FOLDER"):
        read_runs(["=x"])


def test_two_runs_of_a_method_and_seed_are_an_error(tmp_path: Path) -> None:
    folders = [str(write_run(tmp_path / name)) for name in ("bots-0", "bots")]
    with pytest.raises(ValueError, match=r"bots-0 and .*/bots are both runs of 'bots' with seed 0\. Leave one out"):
        read_runs(folders)


def test_runs_with_other_held_out_sets_are_an_error(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", without=("eval/b/avg@2",))]
    with pytest.raises(ValueError, match=r"a is scored by eval/a/avg@2, eval/b/avg@2, .*b by eval/a/avg@2\. Compare"):
        read_runs(list(map(str, folders)))
    assert len(read_runs(list(map(str, folders)), score="eval/a/avg@2")) == 2


def test_incomplete_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone is not a folder .*Name run folders"):
        read_runs([str(tmp_path / "gone")])
    running = write_run(tmp_path / "running")
    (running / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"running has no summary.json: that run has not finished"):
        read_runs([str(running)])
    bare = write_run(tmp_path / "bare")
    (bare / "metrics.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"bare has no metrics\.csv"):
        read_runs([str(bare)])
    blind = write_run(tmp_path / "blind", rows=[{"step": 1, "num_tokens": 1}])
    with pytest.raises(ValueError, match=r"blind: metrics.csv has no eval/NAME/avg@k, so it was never evaluated"):
        read_runs([str(blind)])


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", r"summary.json is not JSON"), ('{"seed": 0}', r"summary.json lacks iterations, rollouts; expected")],
)
def test_a_broken_summary_is_named(text: str, message: str, tmp_path: Path) -> None:
    (write_run(tmp_path / "bots") / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_runs([str(tmp_path / "bots")])


def test_runs_are_compared_where_all_were_evaluated(tmp_path: Path) -> None:
    def late(row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if row["step"] != 2 or not name.startswith("eval/")}

    often = write_run(tmp_path / "often", without=("num_tokens",))
    seldom = write_run(tmp_path / "seldom", rows=[late(row) for row in STEPS])
    records, warnings = common_evaluations(read_runs([str(often), str(seldom)]))
    for record in records:
        assert record.iterations.tolist() == [0, 4]
        assert record.scores.tolist() == pytest.approx([0.2, 0.5])
        assert {axis: costs.tolist() for axis, costs in record.costs.items()} == {
            "steps": [0, 4],
            "rollouts": [0, 64],
            "seconds": [0, 8],
        }
    assert warnings == [
        f"{often}: evaluations at 2 are left out; not every run was evaluated there.",
        f"tokens are not compared: {often} did not log them.",
    ]


def test_runs_without_two_common_evaluations_are_an_error(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", rows=STEPS[:3])
    second = write_run(tmp_path / "second", rows=[STEPS[0], STEPS[4]])
    with pytest.raises(ValueError, match=r"share 1 iteration\(s\) .*first: 0, 2; .*second: 0, 4\).*val_check_interval"):
        common_evaluations(read_runs([str(first), str(second)]))
