"""Figures of one iteration: what was rolled out, and how long its parts took."""

# Shapes: B tasks, G rollouts per task, R = B·G rows, F reward functions.

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bots_lightning.algorithms.advantages import group_mean_and_std
from bots_lightning.algorithms.meter import Meter


def rollout_metrics(lengths: Tensor, finished: Tensor, rewards: Tensor) -> dict[str, Tensor]:
    """Rewards and lengths of one iteration's rollouts, by TRL's names.

    Args:
        lengths: (R,) completion tokens.
        finished: (R,) bool, False where a completion was cut.
        rewards: (B, G) float, NaN where there is none; left out of the means.
    """
    lengths = lengths.float()
    terminated = lengths[finished] if finished.any() else lengths.new_zeros(1)
    mean, std = group_mean_and_std(rewards.reshape(1, -1))
    return {
        "reward": torch.where(rewards.isnan().all(), torch.nan, mean.squeeze()),
        "reward_std": std.squeeze(),
        "completions/mean_length": lengths.mean(),
        "completions/min_length": lengths.min(),
        "completions/max_length": lengths.max(),
        "completions/mean_terminated_length": terminated.mean(),
        "completions/min_terminated_length": terminated.min(),
        "completions/max_terminated_length": terminated.max(),
        "completions/clipped_ratio": (~finished).float().mean(),
    }


def reward_metrics(names: Sequence[str], scores: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean and deviation of what each reward function said, where it applied, by TRL's names; NaN if nowhere.

    Args:
        names: of F functions.
        scores: (F, B, G) float, NaN where a function does not apply.
    """
    metrics = {}
    for name, values in zip(names, scores, strict=True):
        valid = values[~np.isnan(values)]
        metrics[f"rewards/{name}/mean"] = float(valid.mean()) if len(valid) else np.nan
        metrics[f"rewards/{name}/std"] = float(valid.std(ddof=1)) if len(valid) > 1 else np.nan
    return metrics


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
