"""Metrics of one iteration: what was rolled out, and how long its phases took."""

# Shapes: R rows of rollouts, F reward functions.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bots_lightning.algorithms.advantages import group_mean_and_std


def rollout_metrics(lengths: Tensor, finished: Tensor, rewards: Tensor) -> dict[str, Tensor]:
    """Rewards and lengths of one iteration's rollouts, by TRL's names.

    Args:
        lengths: (R,) completion tokens.
        finished: (R,) bool, False where a completion was cut.
        rewards: (R,) float, NaN where there is none; left out of the means.
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
    """Mean and deviation of what each reward function returned, where it applied, by TRL's names; NaN if nowhere.

    Args:
        names: of F functions.
        scores: (F, R) float, NaN where a function does not apply.
    """
    metrics = {}
    for name, values in zip(names, scores, strict=True):
        valid = values[~np.isnan(values)]
        metrics[f"rewards/{name}/mean"] = float(valid.mean()) if len(valid) else np.nan
        metrics[f"rewards/{name}/std"] = float(valid.std(ddof=1)) if len(valid) > 1 else np.nan
    return metrics


def timing_metrics(seconds: Mapping[str, float], tokens: float) -> dict[str, float]:
    """How long a step and its phases took, `timing_s/…` as in verl, and how fast it was.

    Args:
        seconds: of each phase.
        tokens: that all ranks have generated.
    """
    total = sum(seconds.values())
    timings = {f"timing_s/{phase}": value for phase, value in seconds.items()}
    return timings | {"step_time": total, "tokens_per_second": tokens / total if total else np.nan}
