"""Knapsack and least variance against brute force, and what they maximize against its definition."""

# Shapes: K tasks.

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bots_lightning.allocation import KnapsackAllocation, VarianceAllocation
from bots_lightning.allocation.gains import best_division, equal_chances

concentrations = st.floats(0.1, 60)
beliefs = st.lists(st.tuples(concentrations, concentrations), min_size=1, max_size=4)


def divisions(tasks: int, rollouts: int, most: int) -> Iterator[tuple[int, ...]]:
    """All ways to give tasks 2 rollouts or more."""
    if tasks == 1:
        if 2 <= rollouts <= most:
            yield (rollouts,)
        return
    for first in range(2, min(most, rollouts - 2 * (tasks - 1)) + 1):
        for rest in divisions(tasks - 1, rollouts - first, most):
            yield (first, *rest)


def worth(alpha: float, beta: float, n: int) -> float:
    """E[(1 − p^n − (1−p)^n) p (1−p)²]."""

    def moment(a: int, b: int) -> float:
        """E[p^a (1−p)^b] factor by factor."""
        value, total = 1.0, alpha + beta
        for i in range(a):
            value *= (alpha + i) / (total + i)
        for i in range(b):
            value *= (beta + i) / (total + a + i)
        return value

    return moment(1, 2) - moment(n + 1, 2) - moment(1, n + 2)


@settings(max_examples=40)
@given(pairs=beliefs, num_generations=st.integers(2, 6), most=st.integers(6, 20))
def test_knapsack_is_the_best_of_all_divisions(
    pairs: list[tuple[float, float]], num_generations: int, most: int
) -> None:
    alpha, beta = np.array(pairs).T
    counts = KnapsackAllocation(most).allocate(alpha, beta, num_generations)
    table = [[worth(*pair, n) for n in range(most + 1)] for pair in pairs]

    def total(division: tuple[int, ...]) -> float:
        return sum(row[n] for row, n in zip(table, division, strict=True))

    best = max(map(total, divisions(len(pairs), len(pairs) * num_generations, most)))
    assert total(tuple(counts.tolist())) == pytest.approx(best, abs=1e-12)


@settings(max_examples=40)
@given(pairs=beliefs, num_generations=st.integers(2, 6), most=st.integers(6, 20))
def test_least_variance_is_the_best_of_all_divisions(
    pairs: list[tuple[float, float]], num_generations: int, most: int
) -> None:
    alpha, beta = np.array(pairs).T
    counts = VarianceAllocation(most).allocate(alpha, beta, num_generations)
    variance = alpha / (alpha + beta) * (beta / (alpha + beta + 1))

    def total(division: tuple[int, ...]) -> float:
        return float((variance / (np.array(division) - 1)).sum())

    best = min(map(total, divisions(len(pairs), len(pairs) * num_generations, most)))
    assert total(tuple(counts.tolist())) == pytest.approx(best, rel=1e-9)


def test_gains_are_differences_of_what_groups_are_worth() -> None:
    alpha, beta = np.array([0.4, 1.0, 9.0]), np.array([7.0, 1.0, 0.8])
    gains = KnapsackAllocation().gains(alpha, beta, 20)
    for row, pair in zip(gains, zip(alpha, beta, strict=True), strict=True):
        expected = [worth(*pair, n + 1) - worth(*pair, n) for n in range(2, 22)]
        np.testing.assert_allclose(row, expected, rtol=1e-8, atol=1e-15)
    assert (np.diff(gains, axis=1) <= 0).all()


def test_what_a_group_is_worth_is_the_mean_over_the_belief() -> None:
    p = stats.beta.rvs(2.0, 3.0, size=200_000, random_state=0)
    sampled = ((1 - p**5 - (1 - p) ** 5) * p * (1 - p) ** 2).mean()
    assert worth(2.0, 3.0, 5) == pytest.approx(sampled, abs=5e-4)


def test_chances_are_those_of_the_beta_binomial() -> None:
    chances = equal_chances(np.array([2.0, 0.5]), np.array([3.0, 8.0]), 6)
    expected = [[stats.betabinom.pmf(n, n, *pair) for n in range(7)] for pair in ((2.0, 3.0), (0.5, 8.0))]
    np.testing.assert_allclose(chances, expected, rtol=1e-10)


def test_hard_tasks_get_most_and_known_ones_least() -> None:
    """p ≈ 1/10, 1/2, 9/10, 0 and 1, all about certain."""
    alpha, beta = np.array([20.0, 100.0, 180.0, 0.01, 200.0]), np.array([180.0, 100.0, 20.0, 200.0, 0.01])
    hard, even, easy, hopeless, solved = KnapsackAllocation().allocate(alpha, beta, 8).tolist()
    assert hard > even > easy > hopeless == solved == 2
    hard, even, easy, hopeless, solved = VarianceAllocation().allocate(alpha, beta, 8).tolist()
    assert even > hard > hopeless == solved == 2
    assert abs(hard - easy) <= 1  # the last one goes to either


def test_least_variance_is_near_the_root_of_p_times_1_less_p() -> None:
    p = np.array([0.5, 0.2, 0.05, 0.9])
    counts = VarianceAllocation().allocate(1e6 * p, 1e6 * (1 - p), 40)
    root = np.sqrt(p * (1 - p))
    np.testing.assert_allclose(counts - 1, root / root.sum() * (4 * 40 - 4), atol=1)


@settings(max_examples=60)
@given(
    table=st.lists(st.lists(st.integers(0, 5), min_size=9, max_size=9), min_size=1, max_size=6),
    rollouts=st.integers(0, 54),
)
def test_as_many_gains_as_are_needed_are_looked_at(table: list[list[int]], rollouts: int) -> None:
    """The sum of the largest, however few were computed at first; equal ones go round the tasks."""
    gains = -np.sort(-np.array(table, dtype=float), axis=1)
    tasks, rollouts = len(gains), min(rollouts, gains.size)
    counts = best_division(lambda rows, most: gains[rows, :most], tasks, rollouts, 9)
    assert counts.sum() == rollouts
    taken = sum(row[:count].sum() for row, count in zip(gains, counts, strict=True))
    assert taken == np.sort(gains, axis=None)[gains.size - rollouts :].sum()
    flat = np.zeros((tasks, 9))
    counts = best_division(lambda rows, most: flat[rows, :most], tasks, rollouts, 9)
    assert np.ptp(counts) <= 1
