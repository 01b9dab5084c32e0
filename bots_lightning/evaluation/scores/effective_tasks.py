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
    return CountHistogram(counts).effective_number


class CountHistogram:
    """How many tasks were selected how often, kept up to date: its figures cost the same in a pool of any size.

    Args:
        counts: (N,) how often each task was selected.

    Attributes:
        tasks: (C,) the number of tasks that were selected 0, 1, … times.
    """

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        self.tasks = np.bincount(counts, minlength=1)

    def add(self, before: npt.NDArray[np.int64]) -> None:
        """Counts B more selections, of different tasks that were selected so often before."""
        missing = before.max(initial=-1) + 2 - len(self.tasks)
        self.tasks = np.pad(self.tasks, (0, max(int(missing), 0)))
        np.subtract.at(self.tasks, before, 1)
        np.add.at(self.tasks, before + 1, 1)

    @property
    def distinct(self) -> int:
        """Tasks that were selected at all."""
        return int(self.tasks[1:].sum())

    @property
    def effective_number(self) -> float:
        """exp(entropy) of the selection counts, see `effective_number`; 0 before the first."""
        counts = np.flatnonzero(self.tasks)[int(self.tasks[0] > 0) :]  # the counts that occur, but for 0
        if not len(counts):
            return 0.0
        shares = counts / (counts * self.tasks[counts]).sum()
        return float(np.exp(-(self.tasks[counts] * shares * np.log(shares)).sum()))


def effective_share(shares: npt.NDArray[np.float64]) -> float:
    """exp(entropy) of shares that sum to 1.

    Args:
        shares: (N,) of each task.
    """
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
