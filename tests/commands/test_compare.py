"""`bots-lightning compare`, from the command line to its files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots_lightning.cli import main
from bots_lightning.commands.compare import compare_runs

ROOT = Path(__file__).parents[2]
UP, SLOW = [0.2, 0.3, 0.4, 0.5, 0.6], [0.2, 0.2, 0.3, 0.3, 0.4]


def write_run(folder: Path, seed: int, scores: Sequence[float], every: int = 10, score: str = "eval/held/avg@4") -> str:
    """Runs of 32 rollouts, 100 tokens and half a second per step, evaluated `every` so many steps."""
    folder.mkdir(parents=True)
    last = every * (len(scores) - 1)
    rows: list[dict[str, float]] = [
        {
            "step": step,
            "num_rollouts": 32 * step,
            "num_tokens": 100 * step,
            "step_time": 0.5,
            "selection/effective_task_ratio": 0.5 + 0.25 * (step % 2),
        }
        for step in range(1, last + 1)
    ]
    rows.insert(0, {"step": 0})
    for i, value in enumerate(scores):
        rows[i * every][score] = value
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[-1]])
        writer.writeheader()
        writer.writerows(rows)
    summary = {
        "seed": seed,
        "iterations": last,
        "rollouts": 32 * last,
        "generated_tokens": 100 * last,
        "wall_seconds": last,
        "effective_task_ratio": 0.625 + 0.01 * seed,
        "mixed_per_1000_rollouts": 50.0 + 10 * seed,
        "selection_overhead_fraction": 0.001,
        "distinct_tasks": 300,
        "effective_tasks": 200.5,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two seeds of three methods, in the current folder."""
    monkeypatch.chdir(tmp_path)
    curves = {"bots": UP, "mopps": SLOW, "uniform": SLOW}
    return [write_run(Path(f"runs/{name}-{seed}"), seed, curves[name]) for name in curves for seed in (0, 1)]


def test_methods_are_compared(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", *runs, "--output", "out/compare.json", "--picture", "out/compare.png"])
    result = json.loads((tmp_path / "out/compare.json").read_text())
    assert result["settings"] == {
        "baseline": "uniform",
        "score": ["eval/held/avg@4"],
        "iterations": [0, 10, 20, 30, 40],
        "budgets": [25, 50, 75, 100],
        "interpolate": False,
        "confidence": 0.95,
        "resamples": 10_000,
    }
    assert result["warnings"] == []
    assert list(result["methods"]) == ["bots", "mopps", "uniform"]
    assert list(result["comparisons"]) == ["bots", "mopps"]
    bots = result["methods"]["bots"]
    assert (bots["seeds"], bots["folders"]) == ([0, 1], runs[:2])
    assert bots["final_score"] == {"mean": 0.6, "std": 0.0, "interval": [0.6, 0.6]}
    assert bots["effective_task_ratio"]["mean"] == pytest.approx((0.625 + 0.635) / 2)
    assert bots["effective_task_ratio"]["interval"] == pytest.approx([0.625, 0.635])
    assert bots["mixed_per_1000_rollouts"]["mean"] == pytest.approx((50 + 60) / 2)
    assert bots["forgetting"] == {"mean": None, "std": None, "interval": None}  # of a run that has no such entry
    assert result["comparisons"]["bots"]["selection_differences"]["mixed_per_1000_rollouts"]["seeds"] == [0, 0]
    assert bots["score_curve"]["mean"] == pytest.approx(UP)
    assert bots["score_curve"]["seconds"] == [0, 5, 10, 15, 20]
    assert bots["effective_task_ratio_curve"]["mean"][:2] == [0.75, 0.5]
    assert bots["effective_task_ratio_curve"]["rollouts"][:2] == [32, 64]
    for axis in ("steps", "rollouts", "tokens", "seconds"):
        # SLOW has its best at 40; UP has that 0.4 at 20.
        speed = result["comparisons"]["bots"]["time_to_baseline"][axis]["100"]["pooled"]
        assert (speed["value"], speed["interval"]) == (20 / 40, [20 / 40, 20 / 40])
        better = result["comparisons"]["bots"]["best_so_far"][axis]["100"]["pooled"]["value"]
        assert better == pytest.approx(0.6 / 0.4)
        assert result["comparisons"]["mopps"]["time_to_baseline"][axis]["100"]["pooled"]["value"] == 1
    assert "bots against uniform" in capsys.readouterr().out
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_baseline_may_be_chosen_and_defaults_to_the_first(runs: list[str]) -> None:
    result = compare_runs(runs, baseline="bots")
    assert list(result["comparisons"]) == ["mopps", "uniform"]
    speed = result["comparisons"]["uniform"]["time_to_baseline"]["steps"]["100"]["pooled"]
    assert (speed["value"], speed["at_least"], speed["interval"]) == (None, 1.0, [None, None])
    assert compare_runs(runs[:4])["settings"]["baseline"] == "bots"


def test_between_evaluations_on_request(runs: list[str]) -> None:
    """The target 0.35 is had by `half` at 20, in the middle between 0.3 and 0.4 by UP: at 15, or at the next, 20."""
    runs.append(write_run(Path("runs/half-0"), 0, [0.2, 0.25, 0.35, 0.35, 0.35]))
    for interpolate, expected in ((False, 20 / 20), (True, 15 / 20)):
        result = compare_runs(runs, baseline="half", interpolate=interpolate)
        found = result["comparisons"]["bots"]["time_to_baseline"]["steps"]["100"]["pooled"]["value"]
        assert found == pytest.approx(expected)
        assert result["settings"]["interpolate"] is interpolate


def test_a_single_method_is_described(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", *runs[:2]])
    assert "bots" in capsys.readouterr().out
    assert compare_runs(runs[:2])["comparisons"] == {}


def test_seeds_without_a_partner_count_in_means_only(runs: list[str]) -> None:
    runs.append(write_run(Path("runs/bots-7"), 7, [0.0, 0.0, 0.0, 0.0, 0.0]))
    result = compare_runs(runs)
    assert result["methods"]["bots"]["final_score"]["mean"] == pytest.approx((0.6 + 0.6 + 0) / 3)
    assert result["comparisons"]["bots"]["seeds"] == [0, 1]
    assert result["comparisons"]["bots"]["final_score_difference"]["mean"] == pytest.approx(0.6 - 0.4)
    (warning,) = result["warnings"]
    assert warning.startswith("bots and uniform do not share seed 7: not in the comparison of the two")


def test_methods_without_a_common_seed_are_not_compared(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    other = write_run(Path("runs/late-5"), 5, UP)
    main(["compare", other, *runs[4:], "--output", "compare.json"])
    assert json.loads(Path("compare.json").read_text())["comparisons"]["late"] == {
        "seeds": [],
        "final_score_difference": None,
        "selection_differences": {},
        "time_to_baseline": {},
        "best_so_far": {},
    }
    assert "late: no seed in common with uniform, so no verdict." in capsys.readouterr().out


def test_pairs_are_made_by_seed_whatever_the_order(runs: list[str]) -> None:
    shuffled = [runs[i] for i in (5, 0, 3, 4, 1, 2)]
    sorted_result, result = compare_runs(runs), compare_runs(shuffled)
    assert result["comparisons"] == sorted_result["comparisons"]


def test_a_further_run_of_a_seed_is_not_merged_in_silence(runs: list[str]) -> None:
    again = write_run(Path("runs/bots-0-2"), 0, [0.0] * 5)
    result = compare_runs([*runs, again])
    assert result["methods"]["bots"]["seeds"] == [0, 1]
    assert result["methods"]["bots-0-2"]["seeds"] == [0]
    assert any(line.startswith("bots-0-2 is compared as a method of its own.") for line in result["warnings"])
    named = compare_runs([*runs, f"bots-0-2={again}"])
    assert not any("of its own" in line for line in named["warnings"])


def test_runs_evaluated_at_other_iterations_meet_where_they_can(runs: list[str]) -> None:
    runs.append(write_run(Path("runs/often-0"), 0, np.linspace(0, 1, 9).tolist(), every=5))
    result = compare_runs(runs)
    assert result["settings"]["iterations"] == [0, 10, 20, 30, 40]
    assert (
        "runs/often-0: evaluations at 5, 15, 25, 35 are left out; not every run was evaluated there."
        in (result["warnings"])
    )


def test_another_metric_may_be_the_score(runs: list[str]) -> None:
    result = compare_runs(runs, score="selection/effective_task_ratio")
    assert result["settings"]["score"] == ["selection/effective_task_ratio"]
    assert result["settings"]["iterations"] == list(range(1, 41))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["gone"], "gone is not a folder"),
        (["running"], "running has no summary.json: that run has not finished"),
        (["runs/bots-0", "--baseline", "nobody"], "--baseline nobody: no such method; the runs are of bots."),
        (["runs/bots-0", "--score", "eval/other"], "metrics.csv has no 'eval/other'; it has eval/held/avg@4"),
        (["runs/bots-0", "bots=runs/bots-0"], "runs/bots-0 and runs/bots-0 are both runs of 'bots' with seed 0"),
        ([], "runs"),
    ],
)
def test_a_mistake_ends_the_command_with_what_to_do(
    options: list[str], message: str, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("running").mkdir()
    with pytest.raises(SystemExit) as exit_:
        main(["compare", *options])
    assert exit_.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_help_lists_the_command_and_its_options(program: Any) -> None:
    def shown(*words: str) -> str:
        code, printed, _ = program(*words)
        assert code == 0
        return " ".join(printed.split())

    assert "compare Compare methods by their runs" in shown("--help")
    options = shown("compare", "--help")
    assert "bots-lightning compare runs/bots-0 runs/bots-1 runs/uniform-0 runs/uniform-1" in options
    for option in ("--baseline", "--score", "--interpolate", "--output", "--picture"):
        assert option in options


def test_the_whole_chain_from_fit_to_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.chdir(tmp_path)
    stack = ["--config", str(ROOT / "configs/quickstart.yaml")]
    few = ["--config", str(ROOT / "tests/assets/few_steps.yaml")]
    for name in ("bots", "uniform"):
        overlay = ["--config", str(ROOT / f"configs/selectors/{name}.yaml")]
        main(["fit", *stack, *overlay, *few, "--name", f"{name}-0"])
    main(["compare", "runs/bots-0", "runs/uniform-0", "--output", "compare.json"])
    result = json.loads(Path("compare.json").read_text())
    assert result["settings"]["iterations"] == [0, 1, 2]
    summary = json.loads(Path("runs/bots-0/summary.json").read_text())
    bots = result["methods"]["bots"]
    assert bots["final_score"]["mean"] == summary["evaluation"]["after"]["overall"]
    assert [bots["score_curve"][axis][-1] for axis in ("rollouts", "tokens")] == [
        summary["rollouts"],
        summary["generated_tokens"],
    ]
