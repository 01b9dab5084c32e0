import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.algorithms import group_advantages

NAN = math.nan


def test_hand_arithmetic() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 3.0]], dtype=torch.float64)
    std_first = math.sqrt((4 * 0.5**2) / 3)
    std_second = math.sqrt((3 * 0.75**2 + 2.25**2) / 3)
    expected = torch.tensor(
        [
            [0.5 / (std_first + 1e-4), -0.5 / (std_first + 1e-4), -0.5 / (std_first + 1e-4), 0.5 / (std_first + 1e-4)],
            [*[-0.75 / (std_second + 1e-4)] * 3, 2.25 / (std_second + 1e-4)],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(group_advantages(rewards), expected, rtol=0, atol=1e-12)


def test_without_scaling_the_mean_alone_is_subtracted() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 3.0]])
    expected = torch.tensor([[0.5, -0.5, -0.5, 0.5], [-0.75, -0.75, -0.75, 2.25]])
    torch.testing.assert_close(group_advantages(rewards, scale=False), expected)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -3.0])
def test_equal_rewards_have_no_advantage(value: float) -> None:
    advantages = group_advantages(torch.full((2, 8), value))
    assert advantages.abs().max() < 1e-3


def test_missing_rewards_are_left_out_of_their_group() -> None:
    rewards = torch.tensor([[1.0, NAN, 0.0, NAN], [NAN, NAN, NAN, NAN], [NAN, 2.0, NAN, NAN]], dtype=torch.float64)
    advantages = group_advantages(rewards)
    std = math.sqrt(2 * 0.5**2 / 1)
    scaled = 0.5 / (std + 1e-4)
    expected = torch.tensor([[scaled, 0, -scaled, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-12)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=16))
def test_agrees_with_numpy(row: list[float]) -> None:
    expected = (np.array(row) - np.mean(row)) / (np.std(row, ddof=1) + 1e-4)
    actual = group_advantages(torch.tensor([row], dtype=torch.float64))
    np.testing.assert_allclose(actual[0].numpy(), expected, rtol=1e-9, atol=1e-9)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, G\)"):
        group_advantages(torch.zeros(8))
