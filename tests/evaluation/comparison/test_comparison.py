"""Paired runs by hand, and against every draw of their seeds."""

# Shapes: S seeds, E evaluations.

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bots_lightning.evaluation.comparison.comparison import compare_to_baseline
from bots_lightning.evaluation.comparison.curves import Curves, best_so_far_ratio
from bots_lightning.evaluation.comparison.run_records import RunRecord

FIVE = [0.0, 10.0, 20.0, 30.0, 40.0]


def curve(scores: Sequence[float], costs: Sequence[float] = FIVE) -> Curves:
    return Curves(np.array([costs]), np.array([scores]))


def run(
    method: str, seed: int, scores: Sequence[float], rollouts: Sequence[float] = FIVE, **summary: float | None
) -> RunRecord:
    iterations = np.arange(len(scores)) * 10
    costs = {"steps": iterations.astype(float), "rollouts": np.array(rollouts)}
    nothing = np.array([])
    return RunRecord(
        Path(f"{method}-{seed}"),
        method,
        seed,
        summary,
        ("s",),
        iterations,
        np.array(scores),
        costs,
        iterations,
        nothing,
        nothing,
    )


def test_paired_runs_by_hand() -> None:
    """Seed 0 needs half of the baseline's rollouts; seed 1 never gets there; on the mean curve it takes all of them."""
    pairs = [
        (run("a", 0, [0.2, 0.3, 0.6, 0.6, 0.6]), run("b", 0, [0.2, 0.3, 0.4, 0.5, 0.6])),
        (run("a", 1, [0.2, 0.2, 0.2, 0.2, 0.5]), run("b", 1, [0.2, 0.2, 0.2, 0.4, 0.6])),
    ]
    found = compare_to_baseline(pairs)
    assert found["seeds"] == [0, 1]
    difference = found["final_score_difference"]
    assert difference["seeds"] == pytest.approx([0.0, -0.1])
    assert difference["interval"] == pytest.approx([-0.1, 0.0])
    speed = found["time_to_baseline"]["rollouts"]["100"]
    # Means at the end: 0.55 against 0.6. Resamples: seed 0 twice 0.5, both never, seed 1 twice never.
    assert speed["pooled"] == {
        "value": None,
        "at_least": 40 / 40,
        "interval": [0.5, None],
        "resamples_without_target": 0.0,
    }
    assert speed["seeds"] == {
        "values": [{"value": 0.5, "at_least": None}, {"value": None, "at_least": 1.0}],
        "with_target": 2,
        "reached": 1,
        "median": {"value": None, "at_least": (0.5 + 1) / 2},
    }
    # At 25 % of its budget the baseline had improved with seed 0 only; two resamples of four have a target.
    early = found["time_to_baseline"]["rollouts"]["25"]
    assert early["seeds"]["with_target"] == 1
    assert early["pooled"]["resamples_without_target"] == 0.25  # seed 1 twice
    assert early["pooled"]["value"] == 10 / 10
    better = found["best_so_far"]["steps"]["75"]
    assert better["seeds"]["values"] == pytest.approx([0.6 / 0.5, 0.2 / 0.4])
    assert better["pooled"]["value"] == pytest.approx(0.4 / 0.45)
    assert better["pooled"]["interval"] == pytest.approx([0.2 / 0.4, 0.6 / 0.5])


def test_the_pooled_interval_is_that_of_mean_curves_of_drawn_seeds() -> None:
    """Every ordered draw of three pairs, its mean curves, and the measure on them."""
    rng = np.random.default_rng(0)
    ours = [run("a", seed, np.sort(rng.random(5)).tolist(), np.cumsum(rng.random(5)).tolist()) for seed in range(3)]
    theirs = [run("b", seed, np.sort(rng.random(5)).tolist(), np.cumsum(rng.random(5)).tolist()) for seed in range(3)]
    found = compare_to_baseline(list(zip(ours, theirs, strict=True)), interpolate=True)
    drawn = []
    for draw in itertools.product(range(3), repeat=3):
        means = [
            curve(
                np.mean([runs[i].scores for i in draw], axis=0).tolist(),
                np.mean([runs[i].costs["rollouts"] for i in draw], axis=0).tolist(),
            )
            for runs in (ours, theirs)
        ]
        drawn.append(float(best_so_far_ratio(means[0], means[1], 75, interpolate=True)[0]))
    expected = np.nanquantile(drawn, [0.025, 0.975], method="inverted_cdf")
    assert found["best_so_far"]["rollouts"]["75"]["pooled"]["interval"] == pytest.approx(list(expected))


def test_the_baseline_paired_with_itself_is_one_with_an_interval_of_one() -> None:
    rng = np.random.default_rng(0)
    runs = [run("b", seed, (0.1 + np.sort(rng.random(5))).tolist()) for seed in range(9)]
    found = compare_to_baseline([(record, record) for record in runs])
    assert found["final_score_difference"]["interval"] == [0.0, 0.0]
    for measure in ("time_to_baseline", "best_so_far"):
        for cells in found[measure].values():
            assert all(cell["pooled"]["value"] == 1 and cell["pooled"]["interval"] == [1, 1] for cell in cells.values())


def test_measures_of_the_selection_are_paired_by_hand() -> None:
    pairs = [
        (
            run("a", 0, FIVE, mixed_per_1000_rollouts=80.0, forgetting=0.5),
            run("b", 0, FIVE, mixed_per_1000_rollouts=60),
        ),
        (
            run("a", 1, FIVE, mixed_per_1000_rollouts=50.0, forgetting=0.0),
            run("b", 1, FIVE, mixed_per_1000_rollouts=40),
        ),
    ]
    found = compare_to_baseline(pairs)["selection_differences"]
    assert found["mixed_per_1000_rollouts"]["seeds"] == [20, 10]
    assert found["mixed_per_1000_rollouts"]["mean"] == 15
    assert found["mixed_per_1000_rollouts"]["interval"] == [10, 20]
    missing = {"mean": None, "std": None, "interval": None, "seeds": [None, None]}
    assert found["forgetting"] == found["effective_tasks"] == missing
    assert compare_to_baseline([])["selection_differences"] == {}


def test_without_a_pair_there_is_no_comparison_and_with_one_no_interval() -> None:
    assert compare_to_baseline([])["final_score_difference"] is None
    one = compare_to_baseline([(run("a", 0, [0.1, 0.2, 0.3, 0.4, 0.5]), run("b", 0, [0.1, 0.2, 0.3, 0.4, 0.5]))])
    assert one["final_score_difference"]["interval"] is None
    assert one["time_to_baseline"]["steps"]["50"]["pooled"] == {
        "value": 1.0,
        "at_least": None,
        "interval": None,
        "resamples_without_target": 0.0,
    }
