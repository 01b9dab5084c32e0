"""Figures of one iteration: what was rolled out, and how long its parts took."""

# Shapes: B tasks, G rollouts per task, R = B·G rows.

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from bots_lightning.algorithms.advantages import group_mean_and_std
from bots_lightning.algorithms.meter import Meter
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


def policy_metrics(meter: Meter) -> dict[str, float]:
    """What the steps of one update did to the policy, by TRL's names."""
    low, high = meter.mean("clipped_low"), meter.mean("clipped_high")
    metrics = {
        "entropy": meter.mean("entropy"),
        "clip_ratio/low_mean": low,
        "clip_ratio/low_min": meter.lowest("clipped_low"),
        "clip_ratio/high_mean": high,
        "clip_ratio/high_max": meter.highest("clipped_high"),
        "clip_ratio/region_mean": low + high,
        "policy/approxkl_avg": meter.mean("approxkl"),
    }
    return metrics | ({"kl": meter.mean("kl")} if "kl" in meter else {})


@contextmanager
def timed(timings: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds of its block to a name."""
    start = time.perf_counter()
    yield
    timings[name] = timings.get(name, 0.0) + time.perf_counter() - start
