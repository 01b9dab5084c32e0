"""The baseline: selects every task equally often."""

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.selection.chunks import Indices
from bots_lightning.selection.epoch import ShuffledEpoch
from bots_lightning.selection.selector import TaskSelector


class UniformSelector(TaskSelector):
    """Shuffled epochs without replacement, as in an ordinary training loop.

    A batch that spans two epochs holds no task twice: the tasks it already has move to the end of the new epoch.
    """

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Shuffles the first epoch.

        Args:
            features: of the pool's tasks.
            seed: of the generator that shuffles.
        """
        super().setup(features, seed)
        self._epoch = ShuffledEpoch(self.num_tasks, self.rng)

    def add_tasks(self, features: TaskFeatures) -> None:
        """Inserts the new tasks into the rest of the current epoch."""
        old = self.num_tasks
        super().add_tasks(features)
        self._epoch.add(self.num_tasks - old, self.rng)

    def select(self, batch_size: int) -> Indices:
        """(B,) positions of the next tasks of the shuffled epoch."""
        self.check_batch_size(batch_size)
        batch: list[int] = []
        while len(batch) < batch_size:
            batch.append(self._epoch.next(batch, self.rng))
        return np.array(batch, dtype=np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Adds the rest of the epoch."""
        return super().state_dict() | self._epoch.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator and epoch."""
        super().load_state_dict(state)
        self._epoch.load_state_dict(state)
