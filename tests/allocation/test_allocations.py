"""What every allocation keeps to: the budget, the least of each task, and speed; bad options in one line."""

# Shapes: K tasks.

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.allocation import (
    Allocation,
    FixedAllocation,
    KnapsackAllocation,
    PilotCommitAllocation,
    SequentialAllocation,
    TriedTasks,
    VarianceAllocation,
)

AT_ONCE = [
    FixedAllocation(),
    KnapsackAllocation(),
    VarianceAllocation(),
    KnapsackAllocation(12),
    VarianceAllocation(12),
]
IN_ROUNDS = [
    SequentialAllocation(2),
    PilotCommitAllocation(2),
    SequentialAllocation(2, 2),
    PilotCommitAllocation(2, 0, 1, 5),
]
concentrations = st.floats(0.01, 1e4)
beliefs = st.lists(st.tuples(concentrations, concentrations), min_size=1, max_size=20)


def named(allocation: Allocation) -> str:
    return type(allocation).__name__


def arrays(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    alpha, beta = np.array(pairs).T
    return alpha, beta


@pytest.mark.parametrize("allocation", AT_ONCE, ids=named)
@given(pairs=beliefs, num_generations=st.integers(2, 12))
def test_all_rollouts_are_given_and_no_task_is_left_with_one(
    allocation: Allocation, pairs: list[tuple[float, float]], num_generations: int
) -> None:
    allocation.check(num_generations)
    counts = allocation.allocate(*arrays(pairs), num_generations)
    assert counts.dtype == np.int64
    assert counts.sum() == len(pairs) * num_generations
    assert counts.min() >= 2
    if hasattr(allocation, "max_generations"):
        assert counts.max() <= allocation.max_generations


@pytest.mark.parametrize("allocation", IN_ROUNDS, ids=named)
@given(pairs=beliefs, num_generations=st.integers(3, 12), seed=st.integers(0, 99))
def test_rounds_end_within_the_budget(
    allocation: Any, pairs: list[tuple[float, float]], num_generations: int, seed: int
) -> None:
    (alpha, beta), rng = arrays(pairs), np.random.default_rng(seed)
    counts = allocation.allocate(alpha, beta, num_generations)
    budget, rates = len(pairs) * num_generations - counts.sum(), rng.choice([0.0, 0.5, 1.0], len(pairs))
    for _ in range(20):
        more = (
            allocation.more(TriedTasks(alpha, beta, counts, rates, rates == 0.5), int(budget)) if budget else 0 * counts
        )
        assert more.dtype == np.int64
        assert more.min() >= 0
        assert more.sum() <= budget
        counts, budget = counts + more, budget - more.sum()
        assert counts.max() <= allocation.max_generations
        if not more.any():
            return
    pytest.fail("the rounds have no end")


@pytest.mark.parametrize("allocation", [*AT_ONCE, *IN_ROUNDS], ids=named)
def test_the_order_of_tasks_does_not_matter(allocation: Allocation) -> None:
    rng = np.random.default_rng(0)
    alpha, beta, order = rng.gamma(1, 3, 30), rng.gamma(1, 3, 30), rng.permutation(30)
    counts = allocation.allocate(alpha, beta, 6)
    np.testing.assert_array_equal(allocation.allocate(alpha[order], beta[order], 6), counts[order])


@pytest.mark.parametrize("allocation", [KnapsackAllocation(), VarianceAllocation()], ids=named)
def test_tasks_of_which_the_same_is_believed_get_as_many(allocation: Allocation) -> None:
    for alpha, beta in ((1.0, 1.0), (0.3, 50.0), (1e6, 1e-3)):
        assert set(allocation.allocate(np.full(7, alpha), np.full(7, beta), 5).tolist()) == {5}


@pytest.mark.parametrize("allocation", [KnapsackAllocation(), VarianceAllocation(), SequentialAllocation()], ids=named)
def test_single_rollouts_are_refused(allocation: Allocation) -> None:
    with pytest.raises(ValueError, match=f"{named(allocation)} with num_generations=1; expected at least 2"):
        allocation.check(1)


def test_fixed_numbers_are_whatever_the_algorithm_can_learn_from() -> None:
    FixedAllocation().check(1)
    assert FixedAllocation().allocate(np.ones(3), np.ones(3), 1).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("allocation", "message"),
    [
        (KnapsackAllocation(4), "max_generations=4; expected at least 8"),
        (VarianceAllocation(4), "max_generations=4; expected at least 8"),
        (SequentialAllocation(8), "first_generations=8; expected at least 2 and less than 8"),
        (PilotCommitAllocation(8), "pilot_generations=8; expected at least 2 and less than 8"),
    ],
)
def test_options_that_do_not_fit_the_run_are_refused(allocation: Allocation, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allocation.check(8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KnapsackAllocation(1), "max_generations=1; expected at least 2"),
        (lambda: VarianceAllocation(1), "max_generations=1; expected at least 2"),
        (lambda: SequentialAllocation(1), "first_generations=1; expected at least 2"),
        (lambda: SequentialAllocation(4, 3), "max_generations=3; expected at least 4"),
        (lambda: SequentialAllocation(min_chance=1.1), "min_chance=1.1; expected at least 0 and at most 1"),
        (lambda: PilotCommitAllocation(1), "pilot_generations=1; expected at least 2"),
        (lambda: PilotCommitAllocation(4, 0.8, 0.7), "min_pass_rate=0.8; expected at least 0 and at most 0.7"),
        (lambda: PilotCommitAllocation(4, max_pass_rate=2), "max_pass_rate=2; expected at least 0 and at most 1"),
        (lambda: PilotCommitAllocation(8, max_generations=7), "max_generations=7; expected at least 8"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], Allocation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("allocation", [*AT_ONCE[:3], *IN_ROUNDS[:2]], ids=named)
def test_512_tasks_take_a_millisecond(allocation: Allocation) -> None:
    """On a machine that does nothing else; here other tests may run beside it."""
    rng = np.random.default_rng(0)
    alpha, beta = rng.gamma(0.5, 4, 512) + 0.1, rng.gamma(1, 6, 512) + 0.1
    tried = TriedTasks(alpha, beta, np.full(512, 2), rng.choice([0.0, 0.5, 1.0], 512), rng.random(512) < 0.5)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        allocation.allocate(alpha, beta, 8)
        if allocation.sequential:
            allocation.more(tried, 2048)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.002
