"""Shuffled epochs, shared by the selectors that draw without replacement."""

# Shapes: N tasks in the pool.

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from bots_lightning.selection.chunks import Indices


class ShuffledEpoch:
    """A random order of N tasks, shuffled again at the end of every epoch.

    Args:
        num_tasks: N.
        rng: draws the first order.

    Attributes:
        order: (N,) the tasks of this epoch.
        cursor: number of them that have been drawn.
    """

    def __init__(self, num_tasks: int, rng: np.random.Generator) -> None:
        self.order: Indices = rng.permutation(num_tasks)
        self.cursor = 0

    def next(self, batch: Collection[int], rng: np.random.Generator) -> int:
        """Draws the next task.

        Args:
            batch: tasks drawn for this batch; a new epoch moves them to its end, so that a batch holds none twice.
            rng: shuffles a new epoch.

        Returns:
            Position of the task in the pool.
        """
        if self.cursor == len(self.order):
            fresh = rng.permutation(len(self.order))
            taken = np.isin(fresh, list(batch))
            self.order, self.cursor = np.concatenate([fresh[~taken], fresh[taken]]), 0
        self.cursor += 1
        return int(self.order[self.cursor - 1])

    def add(self, count: int, rng: np.random.Generator) -> None:
        """Inserts new tasks at random places in the rest of this epoch.

        Args:
            count: number of new tasks.
            rng: shuffles the rest of the epoch.
        """
        left = np.concatenate([self.order[self.cursor :], len(self.order) + np.arange(count)])
        self.order = np.concatenate([self.order[: self.cursor], rng.permutation(left)])

    def state_dict(self) -> dict[str, Any]:
        """The order and the position in it."""
        return {"epoch": self.order.copy(), "cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the order and the position in it."""
        self.order = np.array(state["epoch"], dtype=np.int64)
        self.cursor = int(state["cursor"])
