"""The measures on learning curves by hand, and what holds for any curves."""

# Shapes: E evaluations, R curves.

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.evaluation.comparison.comparison import BUDGETS
from bots_lightning.evaluation.comparison.curves import (
    Curves,
    best_so_far,
    best_so_far_ratio,
    first_cost,
    time_to_baseline,
)

FIVE = [0.0, 10.0, 20.0, 30.0, 40.0]


def curve(scores: Sequence[float], costs: Sequence[float] = FIVE) -> Curves:
    return Curves(np.array([costs]), np.array([scores]))


def ttb(method: Curves, baseline: Curves, budget: float, interpolate: bool = False) -> tuple[float, float]:
    (ratio,), (bound,) = time_to_baseline(method, baseline, budget, interpolate)
    return float(ratio), float(bound)


def bsf(method: Curves, baseline: Curves, budget: float, interpolate: bool = False) -> float:
    return float(best_so_far_ratio(method, baseline, budget, interpolate)[0])


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
