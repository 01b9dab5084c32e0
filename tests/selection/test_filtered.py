"""What the selectors have in common that draw uniformly among the tasks that pass a filter."""

# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.filtered import FilteredSelector


class AtMostHalf(FilteredSelector):
    """Lets pass rates up to 1/2 and unknown ones through."""

    def passes(self, rates: FloatArray) -> npt.NDArray[np.bool_]:
        return ~(rates > 0.5)


def selector_of(num_tasks: int, seed: int = 0) -> AtMostHalf:
    selector = AtMostHalf()
    selector.setup(TaskFeatures(num_tasks), seed)
    return selector


def visit(selector: FilteredSelector, batch: np.ndarray, rates: np.ndarray) -> None:
    selector.observe(Evidence(batch, 8 * rates, np.full(len(batch), 8.0)))


def reference(rates: list[float], batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """The batches by the definition, where a visit shows a task's rate."""
    rng = np.random.default_rng(seed)
    passing = [True] * len(rates)
    queue: list[int] = rng.permutation(len(rates)).tolist()
    batches = []
    for _ in range(steps):
        if sum(passing) < batch_size:
            passing = [True] * len(rates)
            queue = rng.permutation(len(rates)).tolist()
        batch: list[int] = []
        while len(batch) < batch_size:
            if not queue:
                fresh = rng.permutation(np.flatnonzero(passing)).tolist()
                queue = [k for k in fresh if k not in batch] + [k for k in fresh if k in batch]
            task = queue.pop(0)
            if passing[task]:
                batch.append(task)
        batches.append(batch)
        for task in batch:
            passing[task] = passing[task] and rates[task] <= 0.5
    return batches


@given(
    st.lists(st.sampled_from([0.25, 0.75]), min_size=1, max_size=12).flatmap(
        lambda rates: st.tuples(st.just(rates), st.integers(1, len(rates)))
    ),
    st.integers(0, 2**32 - 1),
)
def test_batches_are_those_of_a_brute_force_loop(pool: tuple[list[float], int], seed: int) -> None:
    rates, batch_size = pool
    selector, batches = selector_of(len(rates), seed), []
    for _ in range(10):
        batch = selector.select(batch_size)
        assert len(set(batch.tolist())) == batch_size
        batches.append(batch.tolist())
        visit(selector, batch, np.array(rates)[batch])
    assert batches == reference(rates, batch_size, 10, seed)


def test_a_task_that_fails_does_not_return_and_the_others_come_equally_often() -> None:
    rates = np.array([0.25, 0.75] * 6)
    selector = selector_of(12)
    for _ in range(3):
        batch = selector.select(4)
        visit(selector, batch, rates[batch])
    epochs = np.sort([np.concatenate([selector.select(3), selector.select(3)]) for _ in range(10)], axis=1)
    np.testing.assert_array_equal(epochs, np.tile(np.arange(0, 12, 2), (10, 1)))
    assert selector.metrics() == {"selection/eligible_share": 0.5}


def test_all_return_once_too_few_are_left() -> None:
    """Seven of ten fail; batches of three go on, and of four start over."""
    selector = selector_of(10)
    visit(selector, np.arange(10), np.where(np.arange(10) < 3, 0.25, 0.75))
    assert set(selector.select(3).tolist()) == {0, 1, 2}
    selector.select(4)
    assert selector.metrics() == {"selection/eligible_share": 1.0}
    assert len(set(np.concatenate([selector.select(5), selector.select(5)]).tolist())) > 5


def test_late_evidence_of_a_task_that_failed_does_not_let_it_return() -> None:
    selector = selector_of(4)
    visit(selector, np.array([1]), np.array([0.75]))
    visit(selector, np.array([1]), np.array([0.25]))
    assert selector.metrics() == {"selection/eligible_share": 0.75}
    assert 1 not in np.concatenate([selector.select(3) for _ in range(20)])


def test_evidence_that_comes_after_the_epoch_began_counts() -> None:
    """All tasks are in the new epoch's order when task 0 fails."""
    selector = selector_of(5)
    selector.select(5)
    selector.select(1)
    visit(selector, np.arange(5), np.array([0.75, 0.25, 0.25, 0.25, 0.25]))
    assert 0 not in np.concatenate([selector.select(4) for _ in range(10)])


def test_rows_of_one_task_are_one_visit() -> None:
    """3 of 4 and 0 of 4 are 3 of 8; a row without rollouts says nothing."""
    selector = selector_of(3)
    selector.observe(Evidence(np.array([0, 0, 1]), np.array([3.0, 0.0, 0.0]), np.array([4.0, 4.0, 0.0])))
    assert selector.metrics() == {"selection/eligible_share": 1.0}


def test_new_tasks_come_within_the_rest_of_the_epoch() -> None:
    selector = selector_of(6)
    first = selector.select(4)
    selector.add_tasks(TaskFeatures(9))
    rest = np.concatenate([selector.select(2), selector.select(3)])
    assert sorted([*first.tolist(), *rest.tolist()]) == list(range(9))


def test_a_resumed_selector_draws_what_the_uninterrupted_one_draws() -> None:
    rates = np.array([0.25, 0.75, 0.25] * 5)

    def step(selector: AtMostHalf) -> list[int]:
        batch = selector.select(4)
        visit(selector, batch, rates[batch])
        return batch.tolist()

    uninterrupted, resumed = selector_of(15, seed=1), selector_of(15, seed=2)
    for _ in range(5):
        step(uninterrupted)
        step(resumed)
    state = uninterrupted.state_dict()
    resumed.load_state_dict(state)
    state["open"][:] = False
    state["epoch"][:] = -1
    assert [step(resumed) for _ in range(12)] == [step(uninterrupted) for _ in range(12)]
    assert resumed.metrics() == uninterrupted.metrics()


def test_a_filter_that_lets_too_few_through_is_named() -> None:
    class Nothing(FilteredSelector):
        def passes(self, rates: FloatArray) -> npt.NDArray[np.bool_]:
            return np.zeros(len(rates), dtype=np.bool_)

    selector = Nothing()
    selector.setup(TaskFeatures(5))
    with pytest.raises(
        ValueError, match=r"0 of 5 tasks pass the filter of Nothing, fewer than batch_size=2\. Widen the filter"
    ):
        selector.select(2)
