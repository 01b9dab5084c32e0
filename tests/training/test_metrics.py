"""Metrics of an iteration, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bots_lightning.algorithms.step import PHASES
from bots_lightning.training.metrics import reward_metrics, rollout_metrics, timing_metrics


def test_lengths_and_rewards_of_an_iteration() -> None:
    rewards = torch.tensor([1.0, 0.0, math.nan, 0.5])
    finished = torch.tensor([True, False, True, False])
    metrics = rollout_metrics(torch.tensor([2, 5, 3, 6]), finished, rewards)
    assert {name: pytest.approx(float(value)) for name, value in metrics.items()} == {
        "reward": (1 + 0 + 0.5) / 3,
        "reward_std": 0.5,  # of 1, 0, 0.5: sqrt((0.25 + 0.25 + 0) / 2)
        "completions/mean_length": (2 + 5 + 3 + 6) / 4,
        "completions/min_length": 2,
        "completions/max_length": 6,
        "completions/mean_terminated_length": (2 + 3) / 2,
        "completions/min_terminated_length": 2,
        "completions/max_terminated_length": 3,
        "completions/clipped_ratio": 2 / 4,
    }


def test_nothing_terminated_has_length_0_and_no_reward_has_mean_nan() -> None:
    metrics = rollout_metrics(torch.tensor([4, 4]), torch.zeros(2, dtype=torch.bool), torch.full((2,), math.nan))
    assert float(metrics["completions/max_terminated_length"]) == 0
    assert math.isnan(metrics["reward"])
    assert float(metrics["reward_std"]) == 0


def test_each_reward_function_has_a_mean_and_a_deviation_where_it_applied() -> None:
    scores = np.array([[1.0, 0.0, 1.0, 1.0], [np.nan, 0.25, 0.75, np.nan], [np.nan] * 4])
    metrics = reward_metrics(["right", "short", "never"], scores)
    assert metrics["rewards/right/mean"] == 0.75
    assert metrics["rewards/right/std"] == pytest.approx(0.5)  # sqrt((3 · 0.25² + 0.75²) / 3)
    assert metrics["rewards/short/mean"] == 0.5
    assert metrics["rewards/short/std"] == pytest.approx(math.sqrt(2 * 0.25**2))
    assert math.isnan(metrics["rewards/never/mean"])


def test_the_metrics_of_time_add_up_to_the_step() -> None:
    seconds = dict.fromkeys(PHASES, 0.0) | {"rollout": 1.5, "backward": 2.0, "other": 0.5}
    metrics = timing_metrics(seconds, tokens=1000)
    assert metrics["step_time"] == 4
    assert metrics["tokens_per_second"] == 1000 / 4
    assert sum(value for name, value in metrics.items() if name.startswith("timing_s/")) == metrics["step_time"]
    assert metrics["timing_s/rollout"] == 1.5
    assert len(metrics) == len(PHASES) + 2
