# Shapes: N tasks in the pool, B tasks in the step.

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence, ReferenceInterpolation, TaskFeatures
from bots_lightning.beliefs.implicit import relative_ability

NAN = float("nan")
WEAK = [0.2, 0.4, 0.1, NAN, 0.3, NAN]
STRONG = [0.6, 0.8, 0.5, 0.9, NAN, NAN]


def interpolation(weak: list[float] = WEAK, strong: list[float] = STRONG, **options: float) -> ReferenceInterpolation:
    implicit = ReferenceInterpolation("small", "large", **options)
    implicit.setup(TaskFeatures(len(weak), {"small": np.array(weak), "large": np.array(strong)}))
    return implicit


def tried(indices: list[int], pass_rates: list[float], count: float = 8.0) -> Evidence:
    return Evidence(np.array(indices), count * np.array(pass_rates), np.full(len(indices), count))


def test_relative_ability_is_0_at_the_weak_and_1_at_the_strong_reference() -> None:
    weak, strong = np.array([0.1, 0.5]), np.array([0.3, 0.9])
    assert relative_ability(weak, weak, strong) == 0
    assert relative_ability(strong, weak, strong) == 1
    assert relative_ability(np.array([0.2, 0.6]), weak, strong) == pytest.approx((0.4 - 0.3) / (0.6 - 0.3))


def test_the_first_batch_enters_raw_and_later_ones_by_momentum() -> None:
    implicit = interpolation(momentum=0.9)
    implicit.observe(tried([0, 1], [0.25, 0.75]))  # mean pass rate 0.5, weak 0.3, strong 0.7
    first = (0.5 - 0.3) / (0.7 - 0.3)
    assert implicit.ability == pytest.approx(first)
    implicit.observe(tried([2], [1.0]))
    assert implicit.ability == pytest.approx(0.9 * first + 0.1 * (1.0 - 0.1) / (0.5 - 0.1))


def test_without_momentum_only_the_last_batch_counts() -> None:
    implicit = interpolation(momentum=0.0)
    implicit.observe(tried([0, 1], [0.25, 0.75]))
    implicit.observe(tried([2], [0.2]))
    assert implicit.ability == pytest.approx((0.2 - 0.1) / (0.5 - 0.1))


def test_nothing_is_predicted_before_the_first_batch() -> None:
    assert np.isnan(interpolation().predict()).all()


def test_predictions_by_hand_are_nan_exactly_where_a_reference_is_missing() -> None:
    implicit = interpolation()
    implicit.observe(tried([0, 1], [0.25, 0.75]))  # ability 0.5
    expected = [0.2 + 0.5 * 0.4, 0.4 + 0.5 * 0.4, 0.1 + 0.5 * 0.4, NAN, NAN, NAN]
    np.testing.assert_allclose(implicit.predict(), expected, rtol=1e-15)


def test_predictions_are_clipped_on_both_sides() -> None:
    above = interpolation()
    above.observe(tried([2], [1.0]))  # ability (1 - 0.1) / 0.4 = 2.25
    np.testing.assert_allclose(above.predict()[:3], [1.0, 1.0, 0.1 + 2.25 * 0.4])
    below = interpolation()
    below.observe(tried([1], [0.0]))  # ability (0 - 0.4) / 0.4 = -1
    np.testing.assert_allclose(below.predict()[:3], [0.0, 0.0, 0.0])


def test_a_stronger_weak_reference_is_no_obstacle() -> None:
    """Named the wrong way round, the references still predict the same pass rates."""
    right, swapped = interpolation(), interpolation(weak=STRONG, strong=WEAK)
    for implicit in (right, swapped):
        implicit.observe(tried([0, 1], [0.25, 0.5]))
    np.testing.assert_allclose(swapped.predict(), right.predict(), rtol=1e-14)


def test_tasks_without_both_references_take_no_part() -> None:
    implicit, alone = interpolation(), interpolation()
    implicit.observe(tried([0, 3, 4, 5], [0.5, 1.0, 1.0, 1.0]))
    alone.observe(tried([0], [0.5]))
    assert implicit.ability == alone.ability
    before = implicit.ability
    implicit.observe(tried([3, 4, 5], [0.0, 0.0, 0.0]))
    assert implicit.ability == before


def test_references_that_hardly_differ_on_a_batch_leave_the_ability() -> None:
    implicit = interpolation(weak=[0.2, 0.5, 0.500, 0.3], strong=[0.6, 0.5, 0.549, 0.2])
    implicit.observe(tried([1], [1.0]))
    assert implicit.ability is None
    implicit.observe(tried([0], [0.3]))
    before = implicit.ability
    implicit.observe(tried([1], [1.0]))
    implicit.observe(tried([2], [1.0]))  # a gap of 0.049, below the smallest of 0.05
    assert implicit.ability == before
    implicit.observe(tried([3], [0.3]))  # a gap of -0.1 says as much as one of 0.1
    assert implicit.ability == pytest.approx(0.9 * (0.3 - 0.2) / 0.4 + 0.1 * 0.0)


@pytest.mark.parametrize("min_gap", [0.0, -0.1, math.nan])
def test_a_gap_that_guards_nothing_is_refused(min_gap: float) -> None:
    with pytest.raises(ValueError, match=r"min_gap=.*; expected more than 0"):
        ReferenceInterpolation("w", "u", min_gap=min_gap)


@given(st.floats(0, 1), st.lists(st.tuples(st.floats(0, 0.4), st.floats(0.5, 1)), min_size=1, max_size=8))
def test_a_policy_on_the_line_between_the_references_is_predicted_exactly(
    ability: float, references: list[tuple[float, float]]
) -> None:
    weak, strong = (np.array(column) for column in zip(*references, strict=True))
    truth = weak + ability * (strong - weak)
    implicit = interpolation(weak.tolist(), strong.tolist())
    half = (len(truth) + 1) // 2
    implicit.observe(tried(list(range(half)), truth[:half].tolist(), count=1.0))
    assert implicit.ability == pytest.approx(ability, abs=1e-12)
    np.testing.assert_allclose(implicit.predict(), truth, rtol=0, atol=1e-12)


def test_a_batch_averages_pass_rates_and_not_counts() -> None:
    implicit = interpolation()
    implicit.observe(Evidence(np.array([0, 1]), np.array([4.0, 0.0]), np.array([4.0, 12.0])))
    assert implicit.ability == pytest.approx(((1.0 + 0.0) / 2 - 0.3) / (0.7 - 0.3))


def test_setup_forgets_the_ability() -> None:
    implicit = interpolation()
    implicit.observe(tried([0], [0.5]))
    implicit.setup(TaskFeatures(1, {"small": np.array([0.1]), "large": np.array([0.9])}))
    assert implicit.ability is None


@pytest.mark.parametrize("seen", [[], [([0, 1], [0.25, 0.75])]])
def test_state_round_trip(seen: list[tuple[list[int], list[float]]]) -> None:
    """Also before the first batch, whose raw entry must not be lost by a resume."""
    original, restored = interpolation(), interpolation()
    for indices, pass_rates in seen:
        original.observe(tried(indices, pass_rates))
    restored.observe(tried([2], [1.0]))  # to be overwritten
    restored.load_state_dict(original.state_dict())
    for implicit in (original, restored):
        implicit.observe(tried([0], [0.9]))
    assert restored.ability == original.ability


def test_an_unknown_reference_column_names_what_the_pool_has() -> None:
    features = TaskFeatures(1, {"small": np.array([0.1]), "medium": np.array([0.9])})
    with pytest.raises(ValueError, match=r"no reference column 'large'; it has \['medium', 'small'\]\. Add"):
        ReferenceInterpolation("small", "large").setup(features)
    with pytest.raises(ValueError, match="no reference column 'small'; it has none"):
        ReferenceInterpolation("small", "large").setup(TaskFeatures(1))


@pytest.mark.parametrize("momentum", [-0.1, 1.0, NAN])
def test_an_impossible_momentum_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"momentum={momentum}; expected"):
        ReferenceInterpolation("small", "large", momentum=momentum)


def test_one_reference_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="same column 'small'"):
        ReferenceInterpolation("small", "small")
