"""The best division of rollouts where each further one of a task gains less than the one before."""

# Shapes: K tasks, M further rollouts of a task at most.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from bots_lightning.allocation.allocation import LEAST, Allocation, Counts, Floats
from bots_lightning.options import check_numbers


class GainAllocation(Allocation):
    """Divides a step's rollouts, 2 or more for each task, by what each further one gains; subclasses say what that is.

    Args:
        max_generations: the most rollouts of a task.

    Raises:
        ValueError: the option is out of bounds.
    """

    def __init__(self, max_generations: int = 128) -> None:
        check_numbers(LEAST, max_generations=max_generations)
        self.max_generations = max_generations

    @abstractmethod
    def gains(self, alpha: Floats, beta: Floats, most: int) -> Floats:
        """What a task's third rollout gains, its fourth, and so on.

        Args:
            alpha: (K,) α of the Beta distribution of each success probability.
            beta: (K,) β.
            most: M.

        Returns:
            (K, M), none larger than the one before and none negative.
        """

    def check(self, num_generations: int) -> None:
        """Refuses a bound below the mean; see `Allocation.check`."""
        super().check(num_generations)
        check_numbers(num_generations, max_generations=self.max_generations)

    def allocate(self, alpha: Floats, beta: Floats, num_generations: int) -> Counts:
        """(K,) the division with the largest sum of gains; see `Allocation.allocate`."""

        def gains(tasks: Counts, most: int) -> Floats:
            return self.gains(alpha[tasks], beta[tasks], most)

        rollouts = len(alpha) * (num_generations - LEAST)
        return LEAST + best_division(gains, len(alpha), rollouts, self.max_generations - LEAST)


def best_division(gains: Callable[[Counts, int], Floats], tasks: int, rollouts: int, most: int) -> Counts:
    """Divides rollouts among tasks so that the sum of their gains is as large as can be.

    The objective Σ_k f_k(n_k) is separable and each f_k concave, so that taking the largest gains is optimal: whoever
    takes a gain has taken the larger ones of the same task before. Gains that are equal are taken from all tasks in
    turn. Only as many are computed as may be taken.

    Args:
        gains: gives, of some tasks by their positions (K',), the gains (K', M) of up to M further rollouts, none larger
            than the one before and none negative.
        tasks: K.
        rollouts: how many to divide, at most K · `most`.
        most: further rollouts of a task.

    Returns:
        (K,) int, the further rollouts of each task, whose sum is `rollouts`.
    """
    if rollouts == 0:
        return np.zeros(tasks, dtype=np.int64)
    width = min(most, 2 * -(-rollouts // tasks))
    table = gains(np.arange(tasks), width)
    counts = _largest(table, rollouts)
    while width < most and (full := np.flatnonzero(counts == width)).size:
        width = min(2 * width, most)
        table = np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=-1.0)  # the others want no more
        table[full] = gains(full, width)
        counts = _largest(table, rollouts)
    return counts


def _largest(table: Floats, rollouts: int) -> Counts:
    """(K,) how many of each row are among so many largest of the table (K, M), whose −1 are gaps; columns go first."""
    known = table[table >= 0]
    least = np.partition(known, -rollouts)[-rollouts]
    taken = np.count_nonzero(table > least, axis=1)
    tied = np.nonzero((table == least).T)[1][: rollouts - taken.sum()]
    counts: Counts = taken + np.bincount(tied, minlength=len(table))
    return counts


def equal_chances(alpha: Floats, beta: Floats, most: int) -> Floats:
    """The probability that a task's next n rollouts all succeed, p ~ Beta(α, β): (α)_n / (α+β)_n.

    Args:
        alpha: (K,) α.
        beta: (K,) β; with α and β exchanged, that they all fail.
        most: the largest n.

    Returns:
        (K, most + 1), for n = 0, …, most.
    """
    n = np.arange(most)
    chances = np.ones((len(alpha), most + 1))
    np.cumprod((alpha[:, None] + n) / ((alpha + beta)[:, None] + n), axis=1, out=chances[:, 1:])
    return chances
