"""Advantages by hand, against slow loops, and by what must hold of them."""

# Shapes: K groups of n_k rows, G where all are equal, R rows in all, T completion tokens.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from bots_lightning.algorithms.advantages import (
    group_advantages,
    group_mean_and_std,
)
from bots_lightning.rollouts.segments import groups_of_rows

NAN = math.nan
SCALES, BASELINES = ["group", "batch", "none"], ["grpo", "rloo"]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def of_groups(rewards: Tensor, *options: Any, **more: Any) -> Tensor:
    """(K, G) advantages of rewards (K, G)."""
    groups = groups_of_rows([rewards.shape[1]] * len(rewards))
    return group_advantages(rewards.flatten(), groups, *options, **more).reshape(rewards.shape)


# Means 0.5 and 0.75; deviations from them ±0.5 and −0.75, 2.25.
REWARDS = tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 3.0]])
CENTRED = tensor([[0.5, -0.5, -0.5, 0.5], [-0.75, -0.75, -0.75, 2.25]])


def test_scaled_by_the_group_by_hand() -> None:
    std_first = math.sqrt(4 * 0.5**2 / 3)
    std_second = math.sqrt((3 * 0.75**2 + 2.25**2) / 3)
    expected = CENTRED / (tensor([[std_first], [std_second]]) + 1e-4)
    torch.testing.assert_close(of_groups(REWARDS), expected, rtol=0, atol=1e-15)


def test_scaled_by_the_batch_by_hand() -> None:
    # Five rewards of 0, two of 1, one of 3: mean 5/8.
    std = math.sqrt((5 * (5 / 8) ** 2 + 2 * (3 / 8) ** 2 + (19 / 8) ** 2) / 7)
    torch.testing.assert_close(of_groups(REWARDS, "batch"), CENTRED / (std + 1e-4), rtol=0, atol=1e-15)


def test_without_scaling_the_mean_alone_is_subtracted() -> None:
    torch.testing.assert_close(of_groups(REWARDS, "none"), CENTRED, rtol=0, atol=0)


def test_leave_one_out_by_hand() -> None:
    expected = [[1 - 1 / 3, 0 - 2 / 3, 0 - 2 / 3, 1 - 1 / 3], [0 - 3 / 3, 0 - 3 / 3, 0 - 3 / 3, 3 - 0 / 3]]
    actual = of_groups(REWARDS, "none", adv_estimator="rloo")
    torch.testing.assert_close(actual, tensor(expected), rtol=0, atol=1e-15)


rewards_with_gaps = st.lists(st.one_of(st.floats(-5, 5), st.just(NAN)), min_size=1, max_size=16)


@given(rewards_with_gaps)
def test_leave_one_out_is_the_mean_of_the_others(row: list[float]) -> None:
    expected = []
    for j, reward in enumerate(row):
        others = [r for i, r in enumerate(row) if i != j and not math.isnan(r)]
        expected.append(0.0 if math.isnan(reward) or not others else reward - sum(others) / len(others))
    actual = of_groups(tensor([row]), "none", adv_estimator="rloo")
    torch.testing.assert_close(actual, tensor([expected]), rtol=0, atol=1e-12)


@given(rewards_with_gaps)
def test_agrees_with_numpy(row: list[float]) -> None:
    kept = np.array([r for r in row if not math.isnan(r)])
    assume(len(kept) > 1)
    expected = np.nan_to_num((np.array(row) - kept.mean()) / (kept.std(ddof=1) + 1e-4))
    np.testing.assert_allclose(of_groups(tensor([row]))[0].numpy(), expected, rtol=1e-9, atol=1e-9)
    mean, std = group_mean_and_std(tensor([row]))
    assert mean.item() == pytest.approx(kept.mean(), abs=1e-12)
    assert std.item() == pytest.approx(kept.std(ddof=1), abs=1e-12)


@pytest.mark.parametrize("adv_estimator", BASELINES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -3.0])
def test_equal_rewards_have_no_advantage_at_all(
    value: float, dtype: torch.dtype, scale: Any, adv_estimator: Any
) -> None:
    rewards = torch.full((2, 16), value, dtype=dtype)
    rewards[1, 3:] = NAN
    advantages = of_groups(rewards, scale, adv_estimator=adv_estimator)
    assert torch.equal(advantages, torch.zeros_like(rewards))
    assert not group_mean_and_std(rewards)[1].any()


@pytest.mark.parametrize("adv_estimator", BASELINES)
@pytest.mark.parametrize("scale", SCALES)
def test_missing_rewards_are_left_out(scale: Any, adv_estimator: Any) -> None:
    rewards = tensor([[1.0, NAN, 0.0, NAN], [NAN, NAN, NAN, NAN], [NAN, 2.0, NAN, NAN]])
    advantages = of_groups(rewards, scale, adv_estimator=adv_estimator)
    mean = (1 + 0 + 2) / 3
    batch = math.sqrt(((1 - mean) ** 2 + (0 - mean) ** 2 + (2 - mean) ** 2) / 2)
    std = {"group": math.sqrt(2 * 0.5**2 / 1) + 1e-4, "batch": batch + 1e-4, "none": 1.0}[scale]
    best = (0.5 if adv_estimator == "grpo" else 1.0) / std
    expected = tensor([[best, 0, -best, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-15)


def test_mean_and_deviation_of_a_group_without_rewards_are_zero() -> None:
    mean, std = group_mean_and_std(tensor([[NAN, NAN], [NAN, 2.0]]))
    assert mean.tolist() == [[0], [2]]
    assert std.tolist() == [[0], [0]]


@pytest.mark.parametrize("shape", [(7,), (2, 4), (8, 1)])
def test_rewards_that_are_not_one_per_row_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected twice \(R,\)"):
        group_advantages(torch.zeros(shape), torch.zeros(8, dtype=torch.long))


@pytest.mark.parametrize("option", [{"scale_rewards": "std"}, {"adv_estimator": "gae"}])
def test_a_misspelt_option_is_refused(option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.*expected one of"):
        of_groups(torch.zeros(2, 4), **option)  # type: ignore[arg-type]


# --- groups of unequal size -------------------------------------------------------------------------------------------

COUNTS = [2, 3, 5, 16, 1]


def ragged_rewards(seed: int) -> Tensor:
    """Some equal, some missing; one group is all equal."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randint(0, 4, (sum(COUNTS),), generator=generator).double() / 3
    rewards[2:5] = 0.1
    return rewards.masked_fill(torch.rand(sum(COUNTS), generator=generator) < 0.15, NAN)


def advantages_of_a_loop(rewards: list[float], counts: Sequence[int], scale: str, baseline: str) -> list[float]:
    """By the definitions, one group after the other."""
    known = [reward for reward in rewards if not math.isnan(reward)]
    batch_std = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    advantages, start = [], 0
    for count in counts:
        group = rewards[start : start + count]
        own = [reward for reward in group if not math.isnan(reward)]
        std = {"group": float(np.std(own, ddof=1)) if len(own) > 1 else 0.0, "batch": batch_std}.get(scale)
        for j, reward in enumerate(group):
            others = own if baseline == "grpo" else [r for i, r in enumerate(group) if i != j and not math.isnan(r)]
            none = math.isnan(reward) or not others
            gain = 0.0 if none else reward - sum(others) / len(others)
            advantages.append(gain if std is None else gain / (std + 1e-4))
        start += count
    return advantages


@pytest.mark.parametrize("adv_estimator", BASELINES)
@pytest.mark.parametrize("scale", SCALES)
@given(st.integers(0, 2**31))
def test_groups_of_unequal_size_are_those_of_a_loop(scale: Any, adv_estimator: Any, seed: int) -> None:
    rewards = ragged_rewards(seed)
    actual = group_advantages(rewards, groups_of_rows(COUNTS), scale, adv_estimator)
    expected = advantages_of_a_loop(rewards.tolist(), COUNTS, scale, adv_estimator)
    torch.testing.assert_close(actual, tensor(expected), rtol=0, atol=1e-9)
    assert actual[-1] == 0  # a group of one


@pytest.mark.parametrize("adv_estimator", BASELINES)
@pytest.mark.parametrize("scale", SCALES)
@given(st.integers(0, 2**31))
def test_each_group_has_the_advantages_that_it_has_by_itself(scale: Any, adv_estimator: Any, seed: int) -> None:
    rewards, groups = ragged_rewards(seed), groups_of_rows(COUNTS)
    together = group_advantages(rewards, groups, scale, adv_estimator)
    for group, count in enumerate(COUNTS):
        own = rewards[groups == group]
        alone = group_advantages(own, torch.zeros(count, dtype=torch.long), scale, adv_estimator, batch=rewards)
        torch.testing.assert_close(together[groups == group], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("adv_estimator", BASELINES)
@pytest.mark.parametrize("scale", SCALES)
@given(st.integers(0, 2**31), st.permutations(range(sum(COUNTS))))
def test_rows_may_come_in_any_order(scale: Any, adv_estimator: Any, seed: int, order: list[int]) -> None:
    rewards, groups = ragged_rewards(seed), groups_of_rows(COUNTS)
    sorted_ = group_advantages(rewards, groups, scale, adv_estimator)
    shuffled = group_advantages(rewards[order], groups[order], scale, adv_estimator)
    torch.testing.assert_close(shuffled, sorted_[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("adv_estimator", BASELINES)
@pytest.mark.parametrize("scale", SCALES)
def test_groups_of_equal_size_are_a_plain_reshape(scale: Any, adv_estimator: Any) -> None:
    rewards = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    mean, std = rewards.mean(dim=1, keepdim=True), rewards.std(dim=1, keepdim=True)
    assert torch.equal(of_groups(rewards, "none"), rewards - mean)
    torch.testing.assert_close(of_groups(rewards), (rewards - mean) / (std + 1e-4))
    batch = torch.cat([rewards.flatten(), torch.tensor([5.0, NAN])])
    std = {"group": std, "batch": batch[:-1].std(), "none": 1 - 1e-4}[scale]
    factor = 1.0 if adv_estimator == "grpo" else 7 / 6
    actual = of_groups(rewards, scale, adv_estimator=adv_estimator, batch=batch)
    torch.testing.assert_close(actual, factor * (rewards - mean) / (std + 1e-4))
