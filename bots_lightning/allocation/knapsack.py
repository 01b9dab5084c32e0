"""Rollouts where they are worth most: the knapsack problem."""

# Shapes: K tasks.

from __future__ import annotations

import numpy as np

from bots_lightning.allocation.allocation import LEAST, Floats
from bots_lightning.allocation.gains import GainAllocation, equal_chances


class KnapsackAllocation(GainAllocation):
    """Maximizes what the groups of a step are worth together (Knapsack RL, arXiv:2509.25849).

        max Σ_k E[(1 − p^n − (1−p)^n) · p (1−p)²],   Σ n_k = K · num_generations,   2 ≤ n_k ≤ max_generations

    the probability that a group of n rollouts is mixed, times what is gained by learning from it. Hard tasks get many
    rollouts, solved ones few. With p ~ Beta(α, β), the expectation is E[p (1−p)²] · U_n(α+1, β+2) exactly, where
    U_n(a, b) = 1 − (a)_n/(a+b)_n − (b)_n/(a+b)_n.

    A group of n + 1 is mixed more often than one of n by p^n (1−p) + (1−p)^n p, which falls with n from n = 1 on: the
    objective is concave where every task has at least one, and the largest gains are the exact optimum. (From none it
    is not: a single rollout gains nothing, the second most.)

    Departures from the paper: the expectation under the belief of the selector, instead of p̂ of the last epoch; and at
    least 2 rollouts for each, also where p̂ is 0 or 1.

    Args:
        max_generations: the most rollouts of a task.

    Raises:
        ValueError: the option is out of bounds.
    """

    def gains(self, alpha: Floats, beta: Floats, most: int) -> Floats:
        """(K, M) E[p (1−p)²] (U_{n+1} − U_n), U in the Beta weighted by p (1−p)²; see `GainAllocation.gains`."""
        total = alpha + beta
        worth = alpha * beta * (beta + 1) / (total * (total + 1) * (total + 2))
        a, b = alpha + 1, beta + 2
        solved, failed = (equal_chances(*each, LEAST + most - 1)[:, LEAST:] for each in ((a, b), (b, a)))
        ends = solved * (worth * b)[:, None] + failed * (worth * a)[:, None]
        gains: Floats = ends / ((a + b)[:, None] + np.arange(LEAST, LEAST + most))
        return gains
