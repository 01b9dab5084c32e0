# Shapes: B tasks in the step, n rollouts of a task.

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.algorithms.advantages import group_advantages
from bots_lightning.beliefs import Evidence
from bots_lightning.selection.advantage_sizes import AdvantageScale, boltzmann, mean_absolute_advantages


def evidence_of(groups: list[list[float]]) -> Evidence:
    rewards = np.concatenate([np.array(group) for group in groups])
    return Evidence.from_rewards(np.arange(len(groups)), rewards, [len(group) for group in groups])


def test_one_solved_of_four_by_hand() -> None:
    """Advantages 3/4 and three times −1/4: mean size 6/16; their deviation is √(3/16 · 4/3) = 1/2."""
    evidence = Evidence(np.array([0]), np.array([1.0]), np.array([4.0]))
    assert mean_absolute_advantages(evidence, "none").tolist() == [0.375]
    assert mean_absolute_advantages(evidence).tolist() == [0.75]


@pytest.mark.parametrize("scale", ["group", "none"])
def test_binary_rewards_are_exact_for_every_group_of_up_to_twelve(scale: AdvantageScale) -> None:
    groups = [[1.0] * solved + [0.0] * (n - solved) for n in range(1, 13) for solved in range(n + 1)]
    expected = []
    for group in groups:
        centred = np.array(group) - np.mean(group)
        deviation = np.std(group, ddof=1) if len(group) > 1 else 0.0
        size = np.abs(centred).mean()
        expected.append(size if scale == "none" else size / deviation if deviation > 0 else 0.0)
    counts_only = Evidence(
        np.arange(len(groups)), np.array([sum(group) for group in groups]), np.array([float(len(g)) for g in groups])
    )
    for evidence in (counts_only, evidence_of(groups)):
        np.testing.assert_allclose(mean_absolute_advantages(evidence, scale), expected, atol=1e-12)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=16), min_size=1, max_size=8))
def test_they_are_those_of_the_advantages_that_train(groups: list[list[float]]) -> None:
    rewards = torch.tensor([reward for group in groups for reward in group], dtype=torch.float64)
    rows = torch.tensor([row for row, group in enumerate(groups) for _ in group])
    sizes = np.array([len(group) for group in groups])
    for scale in ("group", "none"):
        advantages = group_advantages(rewards, rows, scale_rewards=scale, eps=1e-13).abs().numpy()
        expected = np.bincount(rows.numpy(), advantages) / sizes
        np.testing.assert_allclose(mean_absolute_advantages(evidence_of(groups), scale), expected, atol=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=16))
def test_other_rewards_stay_within_what_is_possible(group: list[float]) -> None:
    """The mean size is at most the deviation, by Cauchy and Schwarz, hence below 1 once divided by it."""
    evidence = evidence_of([group])
    deviation = float(np.std(group))
    assert mean_absolute_advantages(evidence, "none")[0] <= deviation + 1e-9
    assert 0 <= mean_absolute_advantages(evidence)[0] < 1


def test_rewards_of_two_values_around_one_half_are_exact() -> None:
    """0.3, 0.3, 0.7, 0.7 lie 0.2 from their mean; divided by √(0.04 · 4/3) that is √3/2."""
    evidence = evidence_of([[0.3, 0.3, 0.7, 0.7]])
    assert mean_absolute_advantages(evidence, "none")[0] == pytest.approx(0.2)
    assert mean_absolute_advantages(evidence)[0] == pytest.approx(math.sqrt(3) / 2)


@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 0.7, 1.0])
def test_equal_rewards_have_none(reward: float) -> None:
    evidence = evidence_of([[reward] * 7, [reward]])
    for scale in ("group", "none"):
        assert mean_absolute_advantages(evidence, scale).tolist() == [0.0, 0.0]


def test_boltzmann_shares_by_hand() -> None:
    """e^0 : e^1 : e^2 at τ = 0.5, whatever is added to all scores."""
    expected = np.array([1, math.e, math.e**2]) / (1 + math.e + math.e**2)
    for shift in (0.0, 1000.0):
        np.testing.assert_allclose(boltzmann(shift + np.array([0.0, 0.5, 1.0]), 0.5), expected, rtol=1e-9)
