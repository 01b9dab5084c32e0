# Shapes: S seeds, E evaluations, R curves or resamples.

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.evaluation.comparison.comparison import (
    BUDGETS,
    Curves,
    best_so_far,
    best_so_far_ratio,
    compare_to_baseline,
    first_cost,
    interval,
    resamples,
    spread,
    time_to_baseline,
)
from bots_lightning.evaluation.comparison.run_records import RunRecord

FIVE = [0.0, 10.0, 20.0, 30.0, 40.0]


def curve(scores: Sequence[float], costs: Sequence[float] = FIVE) -> Curves:
    return Curves(np.array([costs]), np.array([scores]))


def ttb(method: Curves, baseline: Curves, budget: float, interpolate: bool = False) -> tuple[float, float]:
    (ratio,), (bound,) = time_to_baseline(method, baseline, budget, interpolate)
    return float(ratio), float(bound)


def bsf(method: Curves, baseline: Curves, budget: float, interpolate: bool = False) -> float:
    return float(best_so_far_ratio(method, baseline, budget, interpolate)[0])


def run(method: str, seed: int, scores: Sequence[float], rollouts: Sequence[float] = FIVE) -> RunRecord:
    iterations = np.arange(len(scores)) * 10
    costs = {"steps": iterations.astype(float), "rollouts": np.array(rollouts)}
    nothing = np.array([])
    return RunRecord(
        Path(f"{method}-{seed}"),
        method,
        seed,
        {},
        ("s",),
        iterations,
        np.array(scores),
        costs,
        iterations,
        nothing,
        nothing,
    )


def test_time_to_baseline_by_hand() -> None:
    baseline, method = curve([0.2, 0.3, 0.5, 0.4, 0.6]), curve([0.2, 0.4, 0.55, 0.5, 0.65])
    # At 25 % (10) the baseline's best is 0.3, first had at 10; the method has it at 10.
    assert ttb(method, baseline, 25)[0] == 10 / 10
    # At 50 % it is 0.5, at 20; so it is at 75 %, as 0.4 is no improvement. The method has 0.55 at 20.
    assert ttb(method, baseline, 50)[0] == ttb(method, baseline, 75)[0] == 20 / 20
    assert ttb(method, baseline, 100) == (40 / 40, 40 / 40)
    assert ttb(curve([0.2, 0.6, 0.1, 0.1, 0.1]), baseline, 100)[0] == 10 / 40
    assert ttb(curve([0.6, 0.1, 0.1, 0.1, 0.1]), baseline, 100)[0] == 0  # there before training


def test_time_to_baseline_interpolated_by_hand() -> None:
    baseline, method = curve([0.2, 0.3, 0.5, 0.4, 0.6]), curve([0.2, 0.4, 0.55, 0.5, 0.65])
    # The target 0.5 lies between 0.4 at 10 and 0.55 at 20.
    assert ttb(method, baseline, 50, interpolate=True)[0] == pytest.approx((10 + 10 * 0.1 / 0.15) / 20)
    # 0.6 lies between 0.5 at 30 and 0.65 at 40.
    assert ttb(method, baseline, 100, interpolate=True)[0] == pytest.approx((30 + 10 * 0.1 / 0.15) / 40)
    # 12.5 % is at 5: halfway between 0.2 and 0.3 the baseline has 0.25; the method has that after a quarter of its way.
    assert ttb(method, baseline, 12.5, interpolate=True)[0] == pytest.approx(10 * 0.05 / 0.2 / 5)


def test_not_reached_is_infinite_and_bounded_by_what_was_spent() -> None:
    baseline, never = curve([0.2, 0.3, 0.5, 0.4, 0.6]), curve([0.2, 0.3, 0.3, 0.3, 0.3], [0, 10, 20, 30, 50])
    assert ttb(never, baseline, 25)[0] == 1
    assert ttb(never, baseline, 50) == (math.inf, 50 / 20)
    assert ttb(never, baseline, 100) == (math.inf, 50 / 40)


def test_a_baseline_that_does_not_improve_gives_no_target() -> None:
    baseline = curve([0.5, 0.3, 0.5, 0.6, 0.4])
    assert math.isnan(ttb(curve([0.1, 0.2, 0.3, 0.4, 0.9]), baseline, 25)[0])
    assert math.isnan(ttb(curve([0.1, 0.2, 0.3, 0.4, 0.9]), baseline, 50)[0])
    assert ttb(curve([0.1, 0.2, 0.3, 0.4, 0.9]), baseline, 75)[0] == 40 / 30


def test_best_so_far_by_hand() -> None:
    baseline, method = curve([0.2, 0.3, 0.5, 0.4, 0.6]), curve([0.2, 0.4, 0.55, 0.5, 0.65])
    assert [bsf(method, baseline, budget) for budget in BUDGETS] == [0.4 / 0.3, 0.55 / 0.5, 0.55 / 0.5, 0.65 / 0.6]
    # At 37.5 % of 40, 15 is between evaluations: halfway, 0.475 and 0.4.
    assert bsf(method, baseline, 37.5) == 0.4 / 0.3
    assert bsf(method, baseline, 37.5, interpolate=True) == pytest.approx(0.475 / 0.4)
    # Twice as dear: at 20 it has what it had at 10.
    dear = curve([0.2, 0.4, 0.55, 0.5, 0.65], [0, 20, 40, 60, 80])
    assert [bsf(dear, baseline, budget) for budget in (50, 100)] == [0.4 / 0.5, 0.55 / 0.6]
    assert math.isnan(bsf(method, curve([0, 0, 0, 0, 0.1]), 50))


def test_costs_are_those_of_the_axis() -> None:
    """By steps the method is as fast; each of its steps spends half as much."""
    scores = [0.2, 0.3, 0.4, 0.5, 0.6]
    cheap = curve(scores, [0, 5, 10, 15, 20])
    assert [ttb(cheap, curve(scores), budget)[0] for budget in BUDGETS] == [0.5] * 4
    assert [bsf(cheap, curve(scores), budget) for budget in BUDGETS] == [0.4 / 0.3, 0.6 / 0.4, 0.6 / 0.5, 0.6 / 0.6]


def test_before_the_first_evaluation_nothing_is_known() -> None:
    late = curve([0.3, 0.5], [30, 40])
    assert math.isnan(best_so_far(late, np.array([20.0]))[0])
    assert math.isnan(best_so_far(late, np.array([20.0]), interpolate=True)[0])
    assert math.isnan(ttb(late, late, 50)[0])
    assert ttb(late, late, 100)[0] == 1


learning_curves = st.lists(st.floats(0.01, 1), min_size=5, max_size=5)


@given(learning_curves, st.sampled_from(BUDGETS), st.booleans())
def test_the_baseline_against_itself_is_exactly_one(scores: list[float], budget: int, interpolate: bool) -> None:
    baseline = curve(scores)
    ratio = ttb(baseline, baseline, budget, interpolate)[0]
    assert ratio == 1 or (math.isnan(ratio) and max(scores[: 1 + budget // 25]) <= scores[0] + 1e-9)
    assert bsf(baseline, baseline, budget, interpolate) == 1


@given(learning_curves, learning_curves, st.lists(st.floats(0, 0.5), min_size=5, max_size=5), st.booleans())
def test_a_curve_above_is_never_slower_nor_worse(
    scores: list[float], others: list[float], gains: list[float], interpolate: bool
) -> None:
    baseline, method = curve(others), curve(scores)
    above = curve([score + gain for score, gain in zip(scores, gains, strict=True)])
    for budget in BUDGETS:
        slow, fast = ttb(method, baseline, budget, interpolate)[0], ttb(above, baseline, budget, interpolate)[0]
        assert fast <= slow + 1e-6 or (math.isnan(fast) and math.isnan(slow))
        assert bsf(above, baseline, budget, interpolate) >= bsf(method, baseline, budget, interpolate)


@given(learning_curves, learning_curves, st.booleans())
def test_measures_grow_with_the_target_and_the_budget(
    scores: list[float], others: list[float], interpolate: bool
) -> None:
    targets = np.sort(others)
    costs = first_cost(Curves(np.tile(FIVE, (5, 1)), np.tile(scores, (5, 1))), targets, interpolate)
    assert all(a <= b for a, b in itertools.pairwise(costs))
    best = [best_so_far(curve(scores), np.array([cost]), interpolate)[0] for cost in np.linspace(0, 40, 17)]
    assert all(a <= b for a, b in itertools.pairwise(best))
    finite = np.isfinite(costs)  # interpolation finds a cost no later than the evaluation
    assert (costs[finite] <= first_cost(Curves(np.tile(FIVE, (5, 1)), np.tile(scores, (5, 1))), targets)[finite]).all()


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_the_interval_is_that_of_all_draws(seeds: int) -> None:
    """Against every one of the S^S ordered draws, and numpy's quantile of them."""
    values = np.random.default_rng(seeds).normal(size=seeds)
    means = [np.mean(draw) for draw in itertools.product(values, repeat=seeds)]
    weights, probabilities = resamples(seeds)
    assert len(weights) == math.comb(2 * seeds - 1, seeds)
    assert probabilities.sum() == pytest.approx(1)
    expected = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert interval(weights @ values, probabilities) == pytest.approx(tuple(expected))


def test_many_seeds_are_resampled_at_random_and_repeatably() -> None:
    values = np.random.default_rng(1).normal(size=30)
    resamples.cache_clear()
    weights, probabilities = resamples(30)
    resamples.cache_clear()
    assert np.array_equal(weights, resamples(30)[0])
    assert weights.shape == (10_000, 30)
    low, high = interval(weights @ values, probabilities)  # type: ignore[misc]
    half = 1.96 * values.std() / np.sqrt(30)  # the normal approximation of the same
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_an_interval_may_end_in_infinity_and_leaves_nan_out() -> None:
    even = np.full(4, 0.25)
    assert interval(np.array([0.5, np.inf, 0.7, 0.6]), even) == (0.5, math.inf)
    assert interval(np.array([0.5, np.nan, 0.7, 0.6]), even) == (0.5, 0.7)
    assert interval(np.full(4, np.nan), even) is None
    assert interval(np.array([0.5]), np.ones(1)) is None


def test_spread_by_hand() -> None:
    assert spread([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(math.sqrt(2)), "interval": [1.0, 3.0]}
    assert spread([1.0]) == {"mean": 1.0, "std": None, "interval": None}
    assert spread([1.0, None]) == {"mean": None, "std": None, "interval": None}


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
        drawn.append(bsf(means[0], means[1], 75, interpolate=True))
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
