"""Where the seconds of a step go: with a clock that only known work moves on, and against a clock beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.rewards import RewardStream
from bots_lightning.selection import UniformSelector
from bots_lightning.training.metrics import PHASES


class Work:
    """A clock that stands still but for what is known to take time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now, self.patch = 0.0, patch
        patch.setattr(time, "perf_counter", lambda: self.now)

    def takes(self, seconds: float, owner: Any, name: str) -> None:
        """Each call of a function moves the clock on."""
        function: Callable[..., Any] = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return function(*args, **kwargs)

        self.patch.setattr(owner, name, slow)


@pytest.mark.parametrize(
    ("algorithm", "options", "steps"),
    [
        (GRPO, {}, 1),
        (GRPO, {"num_iterations": 2, "kl_coef": 0.1}, 2),
        (PPO, {"num_ppo_epochs": 3}, 3),
    ],
)
def test_every_second_goes_to_the_phase_that_took_it(
    build: Any,
    fit: Any,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Any,
    options: dict[str, Any],
    steps: int,
) -> None:
    work = Work(monkeypatch)
    policy = build(algorithm, **options)
    work.takes(1, UniformSelector, "select")
    work.takes(10, UniformSelector, "observe")
    work.takes(100, type(policy.engine), "generate")
    work.takes(1_000, RewardStream, "finish")
    work.takes(10_000, policy, "_accumulate_gradients")
    work.takes(100_000, torch.optim.AdamW, "step")
    work.takes(1_000_000, policy, "prepare")
    work.takes(10_000_000, policy, "_figures")
    history = fit(policy, 2).history
    for step, logged in zip(history.steps, history.logged, strict=True):
        expected = {
            "select": 1,
            "observe": 10,
            "rollout": 100,
            "reward": 1_000,
            "backward": 10_000 * steps,
            "optimizer": 100_000 * steps,
            "logprobs": 1_000_000,
            "other": 10_000_000,
            "sync": 0,
        }
        assert {phase: step["timings"][phase] for phase in PHASES} == expected
        assert {phase: logged[f"timing_s/{phase}"] for phase in PHASES} == expected
        assert logged["step_time"] == sum(expected.values())
        assert step["timings"]["step"] == sum(expected.values()) - 1
        assert logged["tokens_per_second"] == pytest.approx(step["num_tokens"] / sum(expected.values()))


def test_the_parts_add_up_to_the_whole(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = build(GRPO, num_generations=16)
    begin, end = policy.training_step, policy._log_step
    beside: list[float] = []

    def begins(*arguments: Any) -> Any:
        beside.append(-time.perf_counter())
        return begin(*arguments)

    def ends(metrics: dict[str, Any]) -> None:
        beside[-1] += time.perf_counter()
        end(metrics)

    monkeypatch.setattr(policy, "training_step", begins)
    monkeypatch.setattr(policy, "_log_step", ends)
    history = fit(policy, 6, batch_size=8).history
    parts = [sum(step["timings"][phase] for phase in PHASES if phase != "select") for step in history.steps]
    assert parts == pytest.approx(beside, rel=0.02)
    others = [step["timings"]["other"] / whole for step, whole in zip(history.steps, beside, strict=True)]
    assert np.median(others) < 0.1
    assert all(min(step["timings"].values()) >= 0 for step in history.steps)
