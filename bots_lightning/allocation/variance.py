"""Rollouts where rewards vary most."""

# Shapes: K tasks.

from __future__ import annotations

import numpy as np

from bots_lightning.allocation.allocation import LEAST, Allocation, Counts, Floats
from bots_lightning.allocation.gains import best_division
from bots_lightning.options import check_numbers


class VarianceAllocation(Allocation):
    """Minimizes the variance of the step's gradient (VIP, arXiv:2602.01601).

        min Σ_k E[p (1−p)] / (n_k − 1),   Σ n_k = K · num_generations,   2 ≤ n_k ≤ max_generations

    The mean of a task's n terms with the baseline of the others has a variance in proportion to p (1−p) / (n − 1), so
    that n − 1 is best about in proportion to √(p (1−p)). The sum is convex: the largest decreases, 1/(n (n−1)) for the
    rollout after the n-th, are the exact optimum in whole numbers. With p ~ Beta(α, β),
    E[p (1−p)] = αβ / ((α+β)(α+β+1)).

    Departures from the paper: p is predicted by the selector's belief instead of a Gaussian process, and the optimum is
    in whole numbers instead of rounded.

    Args:
        max_generations: the most rollouts of a task.

    Raises:
        ValueError: the option is out of bounds.
    """

    def __init__(self, max_generations: int = 128) -> None:
        check_numbers(LEAST, max_generations=max_generations)
        self.max_generations = max_generations

    def check(self, num_generations: int) -> None:
        """Refuses a bound below the mean; see `Allocation.check`."""
        super().check(num_generations)
        check_numbers(num_generations, max_generations=self.max_generations)

    def allocate(self, alpha: Floats, beta: Floats, num_generations: int) -> Counts:
        """(K,) the optimum; see `Allocation.allocate`."""
        total = alpha + beta
        variance = alpha * beta / (total * (total + 1))

        def gains(tasks: Counts, most: int) -> Floats:
            n = np.arange(LEAST, LEAST + most)
            return variance[tasks, None] / (n * (n - 1))

        rollouts = len(alpha) * (num_generations - LEAST)
        return LEAST + best_division(gains, len(alpha), rollouts, self.max_generations - LEAST)
