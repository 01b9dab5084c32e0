"""A fixed curriculum from the easiest task to the hardest."""

# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.selection.chunks import Indices
from bots_lightning.selection.selector import TaskSelector


class EasyToHardSelector(TaskSelector):
    """Repeats the pool in descending order of a reference model's pass rate.

    The pool is sorted once, ties broken at random; tasks without a pass rate come last.

    Args:
        reference: name of the pool's column of pass rates.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Sorts the pool.

        Args:
            features: of the pool's tasks.
            seed: of the generator that breaks ties.

        Raises:
            ValueError: the pool has no column `reference`.
        """
        super().setup(features, seed)
        shuffled = self.rng.permutation(self.num_tasks)
        # NumPy sorts NaN to the end.
        self._order = shuffled[np.argsort(-features.reference(self.reference)[shuffled], kind="stable")]
        self._cursor = 0

    def add_tasks(self, features: TaskFeatures) -> None:
        """Sorts the new tasks into the order; those easier than the current position come in the next epoch."""
        old = self.num_tasks
        super().add_tasks(features)
        rates = features.reference(self.reference)
        joined = np.concatenate([self._order, old + self.rng.permutation(self.num_tasks - old)])
        done = set(self._order[: self._cursor].tolist())
        self._order = joined[np.argsort(-rates[joined], kind="stable")]
        seen = np.array([task in done for task in self._order.tolist()])
        self._cursor = int(np.flatnonzero(seen)[-1]) + 1 if seen.any() else 0

    def select(self, batch_size: int) -> Indices:
        """(B,) positions of the next tasks of the order, easiest first."""
        self.check_batch_size(batch_size)
        batch = self._order[(self._cursor + np.arange(batch_size)) % self.num_tasks]
        self._cursor = (self._cursor + batch_size) % self.num_tasks
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Adds the order, whose ties were broken at random, and the position in it."""
        return super().state_dict() | {"order": self._order.copy(), "cursor": self._cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, order and position."""
        super().load_state_dict(state)
        self._order = np.array(state["order"], dtype=np.int64)
        self._cursor = int(state["cursor"])
