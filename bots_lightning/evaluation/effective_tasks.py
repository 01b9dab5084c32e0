"""Of the selected tasks: how many could teach something, and how many different ones there were."""

# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task.

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def mixed_groups(rewards: Tensor) -> Tensor:
    """(B,) bool, True where a task's G rewards are not all equal: only those have a gradient.

    Args:
        rewards: (B, G) float, NaN where there is no reward.
    """
    low = rewards.nan_to_num(nan=torch.inf).amin(dim=1)
    high = rewards.nan_to_num(nan=-torch.inf).amax(dim=1)
    return low < high


def effective_number(counts: npt.NDArray[np.int64]) -> float:
    """How many equally often selected tasks would be as diverse: exp(entropy of the selection counts).

    Args:
        counts: (N,) how often each task was selected.
    """
    return effective_share(counts / counts.sum()) if counts.any() else 0.0


def effective_share(shares: npt.NDArray[np.float64]) -> float:
    """exp(entropy) of shares that sum to 1.

    Args:
        shares: (N,) of each task.
    """
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
