"""Figures of one iteration: what was rolled out, and how long its parts took."""

# Shapes: B tasks, G rollouts per task, R = B·G rows.

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from bots_lightning.algorithms.advantages import group_mean_and_std
from bots_lightning.rollouts import Rollouts


def rollout_metrics(rollouts: Rollouts, rewards: Tensor) -> dict[str, Tensor]:
    """Rewards and lengths of one iteration's rollouts, by TRL's names.

    Args:
        rollouts: R = B·G rows.
        rewards: (B, G) float, NaN where there is none; left out of the means.
    """
    lengths = rollouts.lengths.float()
    return {
        "reward": rewards[~rewards.isnan()].mean(),
        "reward_std": group_mean_and_std(rewards)[1].mean(),
        "completions/mean_length": lengths.mean(),
        "completions/max_length": lengths.max(),
        "completions/clipped_ratio": (~rollouts.finished).float().mean(),
    }


@contextmanager
def timed(timings: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds of its block to a name."""
    start = time.perf_counter()
    yield
    timings[name] = timings.get(name, 0.0) + time.perf_counter() - start
