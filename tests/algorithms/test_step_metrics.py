"""Figures of an iteration, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bots_lightning.algorithms.meter import Meter
from bots_lightning.algorithms.step_metrics import policy_metrics, reward_metrics, rollout_metrics, timed


def test_lengths_and_rewards_of_an_iteration() -> None:
    rewards = torch.tensor([[1.0, 0.0], [math.nan, 0.5]])
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
    metrics = rollout_metrics(torch.tensor([4, 4]), torch.zeros(2, dtype=torch.bool), torch.full((1, 2), math.nan))
    assert float(metrics["completions/max_terminated_length"]) == 0
    assert math.isnan(metrics["reward"])
    assert float(metrics["reward_std"]) == 0


def test_each_reward_function_has_a_mean_and_a_deviation_where_it_applied() -> None:
    scores = np.array([[[1.0, 0.0], [1.0, 1.0]], [[np.nan, 0.25], [0.75, np.nan]], [[np.nan] * 2] * 2])
    metrics = reward_metrics(["right", "short", "never"], scores)
    assert metrics["rewards/right/mean"] == 0.75
    assert metrics["rewards/right/std"] == pytest.approx(0.5)  # sqrt((3 · 0.25² + 0.75²) / 3)
    assert metrics["rewards/short/mean"] == 0.5
    assert metrics["rewards/short/std"] == pytest.approx(math.sqrt(2 * 0.25**2))
    assert math.isnan(metrics["rewards/never/mean"])


def test_clip_ratios_are_over_tokens_and_their_extremes_over_completions() -> None:
    meter, mask = Meter(), torch.tensor([[True, True, True, True], [True, True, False, False]])
    low = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    high = torch.tensor([[0.0, 1, 1, 0], [0, 0, 1, 1]])
    meter.add("clipped_low", low, mask, rows=True)
    meter.add("clipped_high", high, mask, rows=True)
    meter.add("entropy", torch.full((2, 4), 0.5), mask)
    meter.add("approxkl", torch.zeros(2, 4), mask)
    assert policy_metrics(meter) == {
        "entropy": 0.5,
        "clip_ratio/low_mean": 3 / 6,
        "clip_ratio/low_min": 1 / 4,
        "clip_ratio/high_mean": pytest.approx(2 / 6),
        "clip_ratio/high_max": 2 / 4,
        "clip_ratio/region_mean": pytest.approx(5 / 6),
        "policy/approxkl_avg": 0.0,
    }
    meter.add("kl", torch.full((2, 4), 0.25), mask)
    assert policy_metrics(meter)["kl"] == 0.25


def test_times_of_one_name_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    timings: dict[str, float] = {}
    for _ in range(2):
        with timed(timings, "rollout"):
            pass
    assert timings == {"rollout": 5.0}
