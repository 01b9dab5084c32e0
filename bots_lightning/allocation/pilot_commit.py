"""A pilot of every task, the rest for those in a band of pass rates."""

# Shapes: K tasks.

from __future__ import annotations

import numpy as np

from bots_lightning.allocation.allocation import LEAST, Allocation, Counts, Floats, TriedTasks
from bots_lightning.options import check_numbers


class PilotCommitAllocation(Allocation):
    """Tries every task a little, then commits to those that teach most (Pilot-Commit, arXiv:2605.26606).

    After the pilot, the rest of the budget is shared equally among the tasks whose pass rate in it lies between
    `min_pass_rate` and `max_pass_rate`; the first ones drawn get what does not divide evenly. Where there are none, or
    all have `max_generations`, the rest is not spent.

    Departures from the paper: tasks outside of the band are learned from all the same where their pilot is mixed, and
    are left to the selector, which has seen their evidence, instead of being deferred or evicted here.

    Args:
        pilot_generations: rollouts of every task in the pilot, fewer than `num_generations`.
        min_pass_rate: of tasks to commit to.
        max_pass_rate: likewise.
        max_generations: the most rollouts of a task, its pilot included.

    Raises:
        ValueError: an option is out of bounds.
    """

    sequential = True
    uses_belief = False

    def __init__(
        self,
        pilot_generations: int = 8,
        min_pass_rate: float = 0.125,
        max_pass_rate: float = 0.75,
        max_generations: int = 128,
    ) -> None:
        check_numbers(LEAST, pilot_generations=pilot_generations)
        check_numbers(0, high=1, max_pass_rate=max_pass_rate)
        check_numbers(0, high=max_pass_rate, min_pass_rate=min_pass_rate)
        check_numbers(pilot_generations, max_generations=max_generations)
        self.pilot_generations, self.max_generations = pilot_generations, max_generations
        self.min_pass_rate, self.max_pass_rate = min_pass_rate, max_pass_rate

    def check(self, num_generations: int) -> None:
        """Refuses a pilot that leaves nothing to commit; see `Allocation.check`."""
        super().check(num_generations)
        check_numbers(LEAST, high=num_generations, below=True, pilot_generations=self.pilot_generations)

    def allocate(self, alpha: Floats, beta: Floats, num_generations: int) -> Counts:
        """(K,) the pilot; see `Allocation.allocate`."""
        return np.full(len(alpha), self.pilot_generations, dtype=np.int64)

    def more(self, tried: TriedTasks, budget: int) -> Counts:
        """(K,) the rest for the tasks in the band, once; see `Allocation.more`."""
        further = np.zeros_like(tried.counts)
        within = (tried.pass_rates >= self.min_pass_rate) & (tried.pass_rates <= self.max_pass_rate)
        if (tried.counts > self.pilot_generations).any() or not within.any():
            return further
        each, left = divmod(budget, int(within.sum()))
        shares = each + (np.arange(within.sum()) < left)
        further[within] = np.minimum(shares, self.max_generations - self.pilot_generations)
        return further
