"""Which groups of rollouts have a gradient, and how diverse the selected tasks are."""

# Shapes: N tasks in the pool, B tasks in a step; R rows of rewards in K groups.

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def mixed_groups(rewards: Tensor, group_of_row: Tensor) -> Tensor:
    """(K,) bool, True where the rewards of a group are not all equal: only such a group has a gradient.

    Args:
        rewards: (R,) float, NaN where there is no reward.
        group_of_row: (R,) int64 in [0, K); every group has a row.
    """
    low, high = extremes(rewards, group_of_row)
    return low < high


def extremes(values: Tensor, group_of_row: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each group, both (K,); +∞ and −∞ where it has none.

    Args:
        values: (R,) float, NaN where there is no value.
        group_of_row: (R,) int64 in [0, K); every group has a row.
    """
    groups = int(group_of_row.max()) + 1
    low, high = values.new_full((groups,), torch.inf), values.new_full((groups,), -torch.inf)
    low.scatter_reduce_(0, group_of_row, values.nan_to_num(nan=torch.inf), "amin")
    high.scatter_reduce_(0, group_of_row, values.nan_to_num(nan=-torch.inf), "amax")
    return low, high


def effective_number(counts: npt.NDArray[np.int64]) -> float:
    """How many equally often selected tasks would be as diverse: exp(entropy of the selection counts).

    Args:
        counts: (N,) how often each task was selected.
    """
    return CountHistogram(counts).effective_number


class CountHistogram:
    """How many tasks were selected how often, kept up to date: metrics cost the same in a pool of any size.

    Args:
        counts: (N,) how often each task was selected.

    Attributes:
        tasks: (C,) the number of tasks that were selected 0, 1, … times.
    """

    def __init__(self, counts: npt.NDArray[np.int64]) -> None:
        self.tasks = np.bincount(counts, minlength=1)

    def add(self, before: npt.NDArray[np.int64]) -> None:
        """Counts B more selections, of different tasks.

        Args:
            before: (B,) how often each of them had been selected.
        """
        missing = before.max(initial=-1) + 2 - len(self.tasks)
        self.tasks = np.pad(self.tasks, (0, max(int(missing), 0)))
        np.subtract.at(self.tasks, before, 1)
        np.add.at(self.tasks, before + 1, 1)

    @property
    def distinct(self) -> int:
        """Number of tasks that were selected at least once."""
        return int(self.tasks[1:].sum())

    @property
    def seen_fraction(self) -> float:
        """Share of the pool that was selected at least once; NaN of an empty pool."""
        return self.distinct / pool if (pool := int(self.tasks.sum())) else float("nan")

    @property
    def effective_number(self) -> float:
        """exp(entropy) of the selection counts, see `effective_number`; 0 before the first."""
        counts = np.flatnonzero(self.tasks)[int(self.tasks[0] > 0) :]  # the counts that occur, except 0
        if not len(counts):
            return 0.0
        shares = counts / (counts * self.tasks[counts]).sum()
        return float(np.exp(-(self.tasks[counts] * shares * np.log(shares)).sum()))


def effective_share(shares: npt.NDArray[np.float64]) -> float:
    """exp(entropy) of the tasks' shares of all selections.

    Args:
        shares: (N,), sums to 1.
    """
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
