"""Passes over the pool in random order, shared by the selectors that draw without replacement."""

# Shapes: N tasks in the pool.

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from bots_lightning.selection.chunks import Indices


class ShuffledEpoch:
    """A random order of N tasks, shuffled anew by the caller's generator whenever it is used up.

    Attributes:
        order: (N,) the tasks of this epoch.
        cursor: how many of them have been given out.
    """

    def __init__(self, num_tasks: int, rng: np.random.Generator) -> None:
        self.order: Indices = rng.permutation(num_tasks)
        self.cursor = 0

    def next(self, batch: Collection[int], rng: np.random.Generator) -> int:
        """The next task; a new epoch puts the tasks that are already in the batch at its end."""
        if self.cursor == len(self.order):
            fresh = rng.permutation(len(self.order))
            taken = np.isin(fresh, list(batch))
            self.order, self.cursor = np.concatenate([fresh[~taken], fresh[taken]]), 0
        self.cursor += 1
        return int(self.order[self.cursor - 1])

    def add(self, count: int, rng: np.random.Generator) -> None:
        """Further tasks join what is left of this epoch, at random places."""
        left = np.concatenate([self.order[self.cursor :], len(self.order) + np.arange(count)])
        self.order = np.concatenate([self.order[: self.cursor], rng.permutation(left)])

    def state_dict(self) -> dict[str, Any]:
        """The order and the place in it."""
        return {"epoch": self.order.copy(), "cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues in the middle of an epoch."""
        self.order = np.array(state["epoch"], dtype=np.int64)
        self.cursor = int(state["cursor"])
