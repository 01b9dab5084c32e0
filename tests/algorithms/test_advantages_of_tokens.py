"""Advantages and returns of tokens by hand, against slow loops, and by what must hold of them."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bots_lightning.algorithms.advantages import (
    discounted_returns,
    explained_variance,
    generalized_advantages,
    soft_overlong_penalty,
    whiten,
)

NAN = math.nan


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Three tokens, then two and padding.
TOKEN_REWARDS, VALUES = tensor([[0.0, 0.0, 1.0], [0.5, 2.0, 7.0]]), tensor([[0.2, 0.4, 0.6], [1.0, -1.0, 7.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_generalized_advantages_by_hand() -> None:
    # γ = 0.9, λ = 0.5, so each δ counts 0.45 of the one before it.
    first = [0 + 0.9 * 0.4 - 0.2, 0 + 0.9 * 0.6 - 0.4, 1 - 0.6]
    second = [0.5 + 0.9 * -1 - 1, 2 - (-1)]
    expected = tensor(
        [
            [first[0] + 0.45 * first[1] + 0.45**2 * first[2], first[1] + 0.45 * first[2], first[2]],
            [second[0] + 0.45 * second[1], second[1], 0],
        ]
    )
    advantages, returns = generalized_advantages(TOKEN_REWARDS, VALUES, MASK, gamma=0.9, lam=0.5)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(returns, expected + VALUES * MASK, rtol=0, atol=1e-15)


def ragged_case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards and values, NaN outside the mask; one row is empty, one full."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(6) < torch.tensor([6, 0, 1, 4])[:, None]
    rewards, values = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    return rewards.masked_fill(~mask, NAN), values.masked_fill(~mask, NAN), mask


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_generalized_advantages_are_the_sum_of_discounted_errors(seed: int, gamma: float, lam: float) -> None:
    rewards, values, mask = ragged_case(seed)
    expected = torch.zeros(4, 6, dtype=torch.float64)
    for i, length in enumerate(mask.sum(dim=1).tolist()):
        r, v = rewards[i, :length].tolist(), [*values[i, :length].tolist(), 0.0]
        for t in range(length):
            expected[i, t] = sum(
                (gamma * lam) ** j * (r[t + j] + gamma * v[t + j + 1] - v[t + j]) for j in range(length - t)
            )
    advantages, returns = generalized_advantages(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(returns, expected + values.nan_to_num(), rtol=0, atol=1e-12)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_with_lambda_one_they_are_returns_minus_values(seed: int, gamma: float) -> None:
    rewards, values, mask = ragged_case(seed)
    advantages, returns = generalized_advantages(rewards, values, mask, gamma, lam=1.0)
    expected = discounted_returns(rewards, mask, gamma)
    torch.testing.assert_close(advantages, expected - values.nan_to_num(), rtol=0, atol=1e-12)
    torch.testing.assert_close(returns, expected, rtol=0, atol=1e-12)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_with_lambda_zero_they_are_errors_of_one_step(seed: int, gamma: float) -> None:
    rewards, values, mask = ragged_case(seed)
    following = torch.nn.functional.pad(values.nan_to_num()[:, 1:], (0, 1))
    advantages, _ = generalized_advantages(rewards, values, mask, gamma, lam=0.0)
    expected = (rewards + gamma * following - values).nan_to_num()
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)


def test_discounted_returns_by_hand() -> None:
    expected = [[0 + 0.9 * 0 + 0.81 * 1, 0 + 0.9 * 1, 1], [0.5 + 0.9 * 2, 2, 0]]
    torch.testing.assert_close(discounted_returns(TOKEN_REWARDS, MASK, gamma=0.9), tensor(expected))
    undiscounted = [[1, 1, 1], [0.5 + 2, 2, 0]]
    torch.testing.assert_close(discounted_returns(TOKEN_REWARDS, MASK), tensor(undiscounted))


def test_tokens_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected three times \(R, T\)"):
        generalized_advantages(TOKEN_REWARDS, VALUES[:, :2], MASK)
    with pytest.raises(ValueError, match=r"expected three times \(R, T\)"):
        generalized_advantages(TOKEN_REWARDS[0], VALUES[0], MASK[0])


def test_whiten_by_hand() -> None:
    # 1, 2, 3, 6 have mean 3 and variance (4 + 1 + 0 + 9) / 3.
    values = tensor([[1.0, 2.0, NAN], [3.0, 6.0, NAN]])
    mask, std = ~values.isnan(), math.sqrt(14 / 3 + 1e-8)
    expected = tensor([[-2 / std, -1 / std, 0], [0, 3 / std, 0]])
    torch.testing.assert_close(whiten(values, mask), expected, rtol=0, atol=1e-15)
    kept = whiten(values, mask, shift_mean=False)
    torch.testing.assert_close(kept, (expected + 3) * mask, rtol=0, atol=1e-15)


@given(st.integers(0, 2**31))
def test_whitened_values_have_mean_zero_and_variance_one(seed: int) -> None:
    _, values, mask = ragged_case(seed)
    inside = whiten(3 * values + 2, mask)[mask]
    assert inside.mean().item() == pytest.approx(0, abs=1e-12)
    assert inside.var().item() == pytest.approx(1, abs=1e-6)


def test_one_value_or_none_cannot_be_whitened_and_equal_ones_become_zero() -> None:
    one = torch.tensor([[False, True, False], [False, False, False]])
    assert whiten(VALUES, one).tolist() == [[0, 0.4, 0], [0, 0, 0]]
    assert not whiten(VALUES, torch.zeros_like(one)).any()
    assert not whiten(torch.full((1, 4), 0.5), torch.ones(1, 4, dtype=torch.bool)).any()


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("gather", [None, lambda tensor: torch.stack([tensor, torch.zeros_like(tensor)])])
@pytest.mark.parametrize("shift_mean", [False, True])
def test_one_value_that_is_no_number_leaves_none(value: float, gather: Any, shift_mean: bool) -> None:
    """Else mini-batches without its row would learn from advantages that were never whitened."""
    mask = torch.tensor([[True, True], [True, False]])
    whitened = whiten(tensor([[1.0, value], [3.0, NAN]]), mask, shift_mean, gather)
    assert whitened[mask].isnan().all()
    assert whitened[1, 1] == 0


def test_explained_variance_by_hand() -> None:
    # Returns 1, 2, 3 vary by 2/3; the errors 0, 1, 1 by 2/9.
    returns, values = tensor([[1.0, 2.0], [3.0, 50.0]]), tensor([[1.0, 1.0], [2.0, -50.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert explained_variance(values, returns, mask).item() == pytest.approx(1 - (2 / 9) / (2 / 3))


def test_explained_variance_of_perfect_predictions_of_a_constant_and_of_equal_returns() -> None:
    returns, mask = tensor([[1.0, 2.0, 6.0]]), torch.tensor([[True, True, True]])
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.full_like(returns, 4.0), returns, mask) == 0
    assert explained_variance(-returns, returns, mask) == -3  # the errors are twice the returns
    assert explained_variance(returns, torch.ones_like(returns), mask).isnan()


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(1, 0), (80, 0), (81, -1 / 20), (90, -10 / 20), (99, -19 / 20), (100, -1), (101, -1), (500, -1)],
)
def test_soft_overlong_penalty_by_hand(length: int, penalty: float) -> None:
    assert soft_overlong_penalty(torch.tensor([length]), 100, 20).item() == pytest.approx(penalty)


@given(st.integers(0, 300), st.integers(1, 200), st.data())
def test_soft_overlong_penalty_is_equation_13(length: int, limit: int, data: st.DataObject) -> None:
    cache = data.draw(st.integers(0, limit))
    if length <= limit - cache:
        expected = 0.0
    elif length <= limit:
        expected = ((limit - cache) - length) / cache
    else:
        expected = -1.0
    assert soft_overlong_penalty(torch.tensor([length]), limit, cache).item() == pytest.approx(expected, abs=1e-6)


# --- tokens that the policy did not sample ----------------------------------------------------------------------------


def case_with_holes(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards and values, NaN outside the mask, which has holes: at the start, inside, at the end, and everywhere."""
    generator = torch.Generator().manual_seed(seed)
    holes = [[0, 1, 1, 0, 0, 1, 1], [1, 0, 1, 0, 1, 0, 1], [1, 1, 1, 0, 0, 0, 0], [0] * 7, [0, 0, 0, 1, 0, 0, 0]]
    mask = torch.tensor(holes, dtype=torch.bool)
    rewards, values = torch.randn(2, *mask.shape, generator=generator, dtype=torch.float64)
    return rewards.masked_fill(~mask, NAN), values.masked_fill(~mask, NAN), mask


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_tokens_that_were_not_sampled_are_skipped(seed: int, gamma: float, lam: float) -> None:
    """A loop over the sampled tokens only: the next token of each is the next that the policy sampled."""
    rewards, values, mask = case_with_holes(seed)
    expected = torch.zeros(mask.shape, dtype=torch.float64)
    for row, sampled in enumerate(mask):
        following = next_value = 0.0
        for t in reversed(sampled.nonzero().flatten().tolist()):
            error = float(rewards[row, t]) + gamma * next_value - float(values[row, t])
            following, next_value = error + gamma * lam * following, float(values[row, t])
            expected[row, t] = following
    advantages, returns = generalized_advantages(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(returns, expected + values.nan_to_num(), rtol=0, atol=1e-12)


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_holes_change_nothing_for_the_tokens_around_them(seed: int, gamma: float, lam: float) -> None:
    rewards, values, mask = case_with_holes(seed)
    whole = generalized_advantages(rewards, values, mask, gamma, lam)
    returns = discounted_returns(rewards, mask, gamma)
    for row, sampled in enumerate(mask):
        dense = [x[row, sampled].unsqueeze(0) for x in (rewards, values, mask)]
        for computed, alone in zip(whole, generalized_advantages(*dense, gamma, lam), strict=True):
            assert torch.equal(computed[row, sampled], alone[0])
            assert not computed[row, ~sampled].any()
        assert torch.equal(returns[row, sampled], discounted_returns(dense[0], dense[2], gamma)[0])
