"""The Kalman filter of group abilities, by hand."""

# Shapes: K groups.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.group_ability import GroupAbility


def test_a_step_by_hand() -> None:
    """Prior variance 1 + 1/4; group 0 has information 1/2 + 1/4 and score 1 + 1/2, group 1 has no task in the step."""
    ability = GroupAbility(2, drift=0.25)
    group, score, information = np.array([0, 0]), np.array([1.0, 0.5]), np.array([0.5, 0.25])
    moved = ability.observe(group, score, information, np.zeros(2))
    variance = 1 / (1 / 1.25 + 0.75)
    np.testing.assert_allclose(ability.variance, [variance, 1.25], rtol=1e-15)
    np.testing.assert_allclose(ability.mean, [variance * 1.5, 0], rtol=1e-15)
    np.testing.assert_array_equal(moved, ability.mean[[0, 0]])


def test_drift_since_the_oldest_evidence_is_not_reduced_by_it() -> None:
    """Two updates ago the variance was 1 + 1/4 − 2/4 = 3/4; the drift of 2/4 is added after the Kalman step."""
    ability = GroupAbility(2, drift=0.25)
    ability.observe(np.array([1, 1]), np.array([1.0, 1.0]), np.array([1.0, 1.0]), np.array([2.0, 0.0]))
    np.testing.assert_allclose(ability.variance, [1.25, 1 / (1 / 0.75 + 2) + 0.5], rtol=1e-15)


def test_a_single_group_starts_at_exactly_zero_and_new_ones_at_the_mean() -> None:
    ability = GroupAbility(1, drift=0.0)
    ability.observe(np.array([0]), np.array([5.0]), np.array([1.0]), np.zeros(1))
    assert ability.mean.tolist() == ability.variance.tolist() == [0.0]
    ability = GroupAbility(2, drift=0.0)
    ability.mean[:] = 1.0, 2.0
    ability.grow(4)
    assert ability.mean.tolist() == [1.0, 2.0, 1.5, 1.5]
    assert ability.variance.tolist() == [1.0] * 4
