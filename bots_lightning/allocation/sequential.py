"""A few rollouts first, more where their rewards are all equal and may yet differ."""

# Shapes: K tasks.

from __future__ import annotations

import numpy as np

from bots_lightning.allocation.allocation import LEAST, Allocation, Counts, Floats, TriedTasks
from bots_lightning.allocation.gains import equal_chances
from bots_lightning.options import check_numbers


class SequentialAllocation(Allocation):
    """Rolls out a task until its rewards differ, in rounds, while there is hope.

    Every task gets `first_generations`. As long as its rewards are all equal, it gets as many again in the next round,
    up to `max_generations`, if these will differ from the others with a probability of at least `min_chance`, by the
    belief updated with what was seen: after s successes alone, 1 − (α)_m/(α+β)_m for m more rollouts. Where the budget
    does not suffice for all, those with the largest chance per rollout come first. What no task is worth is not spent.

    A form of Reinforce-Ada's rounds (arXiv:2510.04996) with a budget and a belief; nothing is thrown away, and the
    baseline of a row does not look ahead.

    Args:
        first_generations: rollouts of every task in the first round; fewer than `num_generations`, which pay for more.
        max_generations: the most rollouts of a task.
        min_chance: the least probability that further rollouts make the group mixed.

    Raises:
        ValueError: an option is out of bounds.
    """

    sequential = True
    uses_belief = False

    def __init__(self, first_generations: int = 4, max_generations: int = 32, min_chance: float = 0.1) -> None:
        check_numbers(LEAST, first_generations=first_generations)
        check_numbers(first_generations, max_generations=max_generations)
        check_numbers(0, high=1, min_chance=min_chance)
        self.first_generations, self.max_generations = first_generations, max_generations
        self.min_chance = min_chance

    def check(self, num_generations: int) -> None:
        """Refuses a first round that leaves nothing for others; see `Allocation.check`."""
        super().check(num_generations)
        check_numbers(LEAST, high=num_generations, below=True, first_generations=self.first_generations)

    def allocate(self, alpha: Floats, beta: Floats, num_generations: int) -> Counts:
        """(K,) the first round; see `Allocation.allocate`."""
        return np.full(len(alpha), self.first_generations, dtype=np.int64)

    def more(self, tried: TriedTasks, budget: int) -> Counts:
        """(K,) as many again for groups that may become mixed; see `Allocation.more`."""
        wanted = np.minimum(tried.counts, self.max_generations - tried.counts)
        chances = self._chances(tried, wanted)
        wanted = np.where(tried.mixed | (chances < self.min_chance), 0, wanted)
        order = np.argsort(-chances / np.maximum(wanted, 1), kind="stable")
        granted = np.zeros_like(wanted)
        granted[order] = np.clip(budget - (np.cumsum(wanted[order]) - wanted[order]), 0, wanted[order])
        return granted

    @staticmethod
    def _chances(tried: TriedTasks, wanted: Counts) -> Floats:
        """(K,) the probability that so many further rewards are not all like those so far."""
        solved = tried.pass_rates > 0.5
        alike = np.where(solved, tried.alpha, tried.beta), np.where(solved, tried.beta, tried.alpha)
        rows = np.arange(len(wanted))
        chances: Floats = 1 - equal_chances(*alike, int(wanted.max(initial=0)))[rows, wanted]
        return chances
