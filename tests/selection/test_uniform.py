# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import UniformSelector

pools = st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n), st.integers(0, 2**32 - 1)))


def selector_of(num_tasks: int, seed: int = 0) -> UniformSelector:
    selector = UniformSelector()
    selector.setup(TaskFeatures(num_tasks), seed)
    return selector


@given(pools)
def test_every_task_comes_exactly_once_per_epoch(pool: tuple[int, int, int]) -> None:
    num_tasks, batch_size, seed = pool
    selector = selector_of(num_tasks, seed)
    drawn = np.concatenate([selector.select(batch_size) for _ in range(3 * num_tasks)])
    epochs = drawn.reshape(-1, num_tasks)  # 3·B whole epochs
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(num_tasks), (len(epochs), 1)))


@given(pools)
def test_no_batch_holds_a_task_twice(pool: tuple[int, int, int]) -> None:
    num_tasks, batch_size, seed = pool
    selector = selector_of(num_tasks, seed)
    for _ in range(3 * num_tasks):
        assert len(set(selector.select(batch_size).tolist())) == batch_size


@pytest.mark.parametrize(("num_tasks", "batch_size"), [(10, 3), (10, 7), (13, 5), (7, 6), (12, 4), (5, 5), (9, 1)])
def test_counts_differ_by_at_most_one_from_the_start_and_two_in_any_window(num_tasks: int, batch_size: int) -> None:
    """The draws so far are whole epochs and the beginning of another; a window may also begin within an epoch."""
    selector = selector_of(num_tasks, seed=4)
    totals = np.zeros((1 + 60 * num_tasks, num_tasks), dtype=int)
    for step in range(1, len(totals)):
        totals[step] = totals[step - 1]
        totals[step][selector.select(batch_size)] += 1
        assert np.ptp(totals[step]) <= 1
    length = 2 * num_tasks // batch_size + 1
    assert np.ptp(totals[length:] - totals[:-length], axis=1).max() <= 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_batch_sizes_may_change_midway(batch_sizes: list[int], seed: int) -> None:
    selector = selector_of(9, seed)
    totals = np.zeros(9, dtype=int)
    for batch_size in batch_sizes:
        batch = selector.select(batch_size)
        assert len(set(batch.tolist())) == batch_size
        totals[batch] += 1
        assert np.ptp(totals) <= 1


def test_every_task_is_equally_likely_at_every_place() -> None:
    """Every task is equally likely at every place, in the first epoch and in later ones."""
    first, later = np.zeros((3, 3)), np.zeros((3, 3))
    for seed in range(3000):
        selector = selector_of(3, seed)
        epochs = np.concatenate([selector.select(1) for _ in range(6)]).reshape(2, 3)
        first[epochs[0], range(3)] += 1
        later[epochs[1], range(3)] += 1
    np.testing.assert_allclose(first, 1000, atol=120)  # 4.6 standard deviations of 26
    np.testing.assert_allclose(later, 1000, atol=120)


def test_epochs_are_shuffled_anew_and_differ_between_seeds() -> None:
    selector, other = selector_of(50, seed=1), selector_of(50, seed=2)
    first, second, of_other = selector.select(50), selector.select(50), other.select(50)
    assert (first != second).any()
    assert (first != of_other).any()


def test_evidence_is_irrelevant() -> None:
    ignorant, informed = selector_of(10), selector_of(10)
    for _ in range(10):
        batch = informed.select(4)
        np.testing.assert_array_equal(ignorant.select(4), batch)
        informed.observe(Evidence(batch, np.ones(4), np.full(4, 8.0)))


def test_a_batch_is_a_copy() -> None:
    selector, untouched = selector_of(10), selector_of(10)
    selector.select(4)[:] = -1
    untouched.select(4)
    state, expected = selector.state_dict(), untouched.state_dict()
    np.testing.assert_array_equal(state["epoch"], expected["epoch"])
