"""The same number of rollouts for every task."""

# Shapes: K tasks.

from __future__ import annotations

import numpy as np

from bots_lightning.allocation.allocation import Allocation, Counts, Floats


class FixedAllocation(Allocation):
    """Gives each task `num_generations` rollouts."""

    uses_belief = False

    def check(self, num_generations: int) -> None:
        """Refuses nothing: algorithms know whether they can learn from single rollouts."""

    def allocate(self, alpha: Floats, beta: Floats, num_generations: int) -> Counts:
        """(K,) `num_generations` each; see `Allocation.allocate`."""
        return np.full(len(alpha), num_generations, dtype=np.int64)
