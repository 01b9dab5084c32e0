"""Figures of an iteration, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bots_lightning.algorithms.meter import Meter
from bots_lightning.training.metrics import (
    PHASES,
    StepClock,
    policy_metrics,
    reward_metrics,
    rollout_metrics,
    timing_metrics,
)


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


# --- the clock ------------------------------------------------------------------------------------------------------


class Time:
    """In place of the machine's."""

    def __init__(self) -> None:
        self.now = 0.0

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    moved = Time()
    monkeypatch.setattr("bots_lightning.training.metrics.time.perf_counter", lambda: moved.now)
    return moved


def seconds_of(clock: StepClock) -> dict[str, float]:
    return {phase: seconds for phase, seconds in clock.stop().items() if seconds}


def test_a_phase_interrupts_the_one_around_it_and_no_second_is_lost(clock_time: Time) -> None:
    clock_time.passes(1000)  # before the step
    clock = StepClock()
    clock_time.passes(1)
    for _ in range(2):
        with clock.phase("sync"):
            clock_time.passes(10)
            with clock.phase("rollout"):
                clock_time.passes(100)
            clock_time.passes(20)
        clock_time.passes(2)
    assert seconds_of(clock) == {"rollout": 2 * 100, "sync": 2 * (10 + 20), "other": 1 + 2 * 2}
    assert clock_time.now - 1000 == sum(clock.seconds.values())
    clock.move(15, "sync", "observe")
    assert seconds_of(clock) == {"rollout": 200, "sync": 45, "observe": 15, "other": 5}


def test_a_phase_that_fails_has_its_seconds_and_the_one_around_it_goes_on(clock_time: Time) -> None:
    clock = StepClock()

    def fails() -> None:
        with clock.phase("sync"):
            clock_time.passes(3)
            raise MemoryError

    with clock.phase("backward"):
        with pytest.raises(MemoryError):
            fails()
        clock_time.passes(5)
    assert clock.running == "other"
    assert seconds_of(clock) == {"backward": 5, "sync": 3}


def test_only_a_phase_that_names_an_accelerator_waits_for_it(clock_time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []

    def synchronize(device: torch.device) -> None:
        waited.append(device)
        clock_time.passes(7)  # of work that was left behind

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    clock, cuda = StepClock(), torch.device("cuda", 0)
    for phase, device in (("backward", None), ("logprobs", torch.device("cpu")), ("optimizer", cuda)):
        with clock.phase(phase, device):
            clock_time.passes(1)
    assert waited == [cuda]
    assert seconds_of(clock) == {"backward": 1, "logprobs": 1, "optimizer": 1 + 7}


def test_the_metrics_of_time_add_up_to_the_step() -> None:
    seconds = dict.fromkeys(PHASES, 0.0) | {"rollout": 1.5, "backward": 2.0, "other": 0.5}
    metrics = timing_metrics(seconds, tokens=1000)
    assert metrics["step_time"] == 4
    assert metrics["tokens_per_second"] == 1000 / 4
    assert sum(value for name, value in metrics.items() if name.startswith("timing_s/")) == metrics["step_time"]
    assert metrics["timing_s/rollout"] == 1.5
    assert len(metrics) == len(PHASES) + 2
