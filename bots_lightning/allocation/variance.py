"""Rollouts where rewards vary most."""

# Shapes: K tasks.

from __future__ import annotations

import numpy as np

from bots_lightning.allocation.allocation import LEAST, Floats
from bots_lightning.allocation.gains import GainAllocation


class VarianceAllocation(GainAllocation):
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

    def gains(self, alpha: Floats, beta: Floats, most: int) -> Floats:
        """(K, M) E[p (1−p)] / (n (n−1)) of the rollout after the n-th; see `GainAllocation.gains`."""
        total, n = alpha + beta, np.arange(LEAST, LEAST + most)
        variance = alpha * beta / (total * (total + 1))
        gains: Floats = variance[:, None] / (n * (n - 1))
        return gains
