"""Advantages: how much better a completion is than was to be expected."""

# Shapes: B tasks, G rollouts per task.

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """Each reward against the others of its group.

        A_bj = (r_bj − mean_j r_b) / (std_j r_b + ε)

    The group-relative baseline of GRPO (arXiv:2402.03300), with the unbiased standard deviation. Departure: rewards
    that are NaN (no reward function applied) are left out of mean and deviation, and their advantage is 0.

    Args:
        rewards: (B, G) float, NaN where there is none.
        scale: divide by the group's standard deviation; without it the advantages are those of Dr. GRPO
            (arXiv:2503.20783).
        eps: keeps groups of nearly equal rewards finite.

    Returns:
        (B, G) float; 0 for a group of equal rewards.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards have shape {tuple(rewards.shape)}; expected (B, G).")
    mean, std = group_mean_and_std(rewards)
    centred = torch.where(rewards.isnan(), torch.zeros_like(rewards), rewards - mean)
    return centred / (std + eps) if scale else centred


def group_mean_and_std(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of each group's rewards, each (B, 1); NaN is left out, 0 if all is NaN."""
    valid = ~rewards.isnan()
    count = valid.sum(dim=1, keepdim=True)
    mean = rewards.nansum(dim=1, keepdim=True) / count.clamp(min=1)
    squares = torch.where(valid, rewards - mean, torch.zeros_like(rewards)).square().sum(dim=1, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()
