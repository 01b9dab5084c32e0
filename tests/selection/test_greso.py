# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import GresoSelector, UniformSelector


def selector_of(
    visits: Sequence[int], seed: int = 0, exploration: float = 0.5, min_exploration: float = 0.01, max_epochs: int = 10
) -> GresoSelector:
    """A selector whose tasks had equal rewards at this many latest visits."""
    selector = GresoSelector(exploration, min_exploration, max_epochs)
    selector.setup(TaskFeatures(len(visits)), seed)
    for visit in range(max(visits)):
        tasks = np.flatnonzero(np.array(visits) > visit)
        selector.observe(Evidence(tasks, np.zeros(len(tasks)), np.full(len(tasks), 8.0)))
    return selector


def test_equal_rewards_are_counted_and_different_ones_start_anew() -> None:
    """Task 0: none, none, some. Task 1: all, some, all. Task 2: none, all, none. Task 3: never tried."""
    selector = GresoSelector()
    selector.setup(TaskFeatures(4))
    keeps = []
    for successes in ([0.0, 8.0, 0.0], [0.0, 3.0, 8.0], [1.0, 8.0, 0.0]):
        selector.observe(Evidence(np.arange(3), np.array(successes), np.full(3, 8.0)))
        keeps.append(selector.keep_probabilities().tolist())
    assert keeps == [[0.5, 0.5, 0.5, 1.0], [0.25, 1.0, 0.25, 1.0], [1.0, 0.5, 0.125, 1.0]]
    assert selector.metrics() == {"selection/skip_probability": pytest.approx((0 + 0.5 + 0.875 + 0) / 4)}


def test_the_probability_of_being_kept_falls_to_the_floor() -> None:
    expected = [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.01, 0.01, 0.01]
    assert selector_of(range(10)).keep_probabilities().tolist() == expected


def test_rows_of_one_task_are_one_visit() -> None:
    selector = GresoSelector()
    selector.setup(TaskFeatures(3))
    rows = Evidence(np.array([0, 1, 0, 1, 2]), np.array([0.0, 0.0, 0.0, 4.0, 0.0]), np.array([4.0, 4.0, 4.0, 4.0, 0.0]))
    selector.observe(rows)
    assert selector.keep_probabilities().tolist() == [0.5, 1.0, 1.0]  # task 1 differs between its rows, 2 was not tried


@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.integers(0, 2**32 - 1))
def test_without_equal_rewards_it_draws_as_uniform(pool: tuple[int, int], seed: int) -> None:
    num_tasks, batch_size = pool
    selector, uniform = selector_of([0] * num_tasks, seed), UniformSelector()
    uniform.setup(TaskFeatures(num_tasks), seed)
    for _ in range(8):
        np.testing.assert_array_equal(selector.select(batch_size), uniform.select(batch_size))


def test_tasks_are_kept_as_often_as_their_probability_says() -> None:
    """Over whole epochs, task k is drawn max(0.5^z_k, 0.1) times as often as a task that is never skipped.

    B = 1, so that no epoch is cut short by a batch that already holds the task; z does not change.
    """
    visits = [0, 1, 2, 3, 6]
    selector, draws = selector_of(visits, seed=2, min_exploration=0.1), 12_000
    counts = np.bincount([selector.select(1)[0] for _ in range(draws)], minlength=5)
    keep = np.array([1.0, 0.5, 0.25, 0.125, 0.1])
    epochs = draws / keep.sum()  # 6076, and the task that is never skipped is drawn once in each
    assert counts[0] == pytest.approx(epochs, rel=0.03)
    deviation = np.sqrt(counts[0] * keep * (1 - keep))
    assert (np.abs(counts - counts[0] * keep) <= 4 * deviation + 1).all()


def test_skipped_tasks_wait_for_the_next_epoch() -> None:
    """Without exploration, tasks with equal rewards never come as long as others fill the batch."""
    selector = selector_of([0, 3, 0, 3, 0, 0], exploration=0.0, min_exploration=0.0)
    epochs = np.sort([np.concatenate([selector.select(2), selector.select(2)]) for _ in range(50)], axis=1)
    np.testing.assert_array_equal(epochs, np.tile([0, 2, 4, 5], (50, 1)))


def brute_force(visits: list[int], batch_size: int, steps: int, max_epochs: int, seed: int) -> list[list[int]]:
    """The batches by the definition: tasks held by the batch go to the end of a new epoch and come only once."""
    rng = np.random.default_rng(seed)
    queue, batches = rng.permutation(len(visits)).tolist(), []
    for _ in range(steps):
        batch: list[int] = []
        considered = 0
        while len(batch) < batch_size:
            if not queue:
                fresh = rng.permutation(len(visits)).tolist()
                queue = [k for k in fresh if k not in batch] + [k for k in fresh if k in batch]
            task = queue.pop(0)
            keep = max(0.5 ** visits[task], 0.01)
            taken = considered >= max_epochs * len(visits) or keep == 1 or rng.random() < keep
            considered += 1
            if taken and task not in batch:
                batch.append(task)
        batches.append(batch)
    return batches


@given(
    st.lists(st.integers(0, 10), min_size=1, max_size=12).flatmap(
        lambda visits: st.tuples(st.just(visits), st.integers(1, len(visits)))
    ),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_batches_are_those_of_a_brute_force_loop(pool: tuple[list[int], int], max_epochs: int, seed: int) -> None:
    visits, batch_size = pool
    selector = selector_of(visits, seed, max_epochs=max_epochs)
    batches = [selector.select(batch_size).tolist() for _ in range(6)]
    assert batches == brute_force(visits, batch_size, 6, max_epochs, seed)
    assert all(len(set(batch)) == batch_size for batch in batches)


@pytest.mark.parametrize("batch_size", [1, 5, 8])
def test_a_batch_is_filled_even_if_every_task_would_be_skipped(batch_size: int) -> None:
    selector = selector_of([4] * 8, exploration=0.0, min_exploration=0.0, max_epochs=2)
    for _ in range(10):
        assert len(set(selector.select(batch_size).tolist())) == batch_size


def test_a_resumed_selector_draws_what_the_uninterrupted_one_draws() -> None:
    def step(selector: GresoSelector) -> list[int]:
        batch = selector.select(4)
        selector.observe(Evidence(batch, 8.0 * (batch % 3 == 0), np.full(4, 8.0)))
        return batch.tolist()

    uninterrupted, resumed = selector_of([0] * 9, seed=1), selector_of([5] * 9, seed=2)
    for _ in range(7):
        step(uninterrupted)
        step(resumed)
    state = uninterrupted.state_dict()
    resumed.load_state_dict(state)
    state["equal_visits"][:] = 0
    state["epoch"][:] = -1
    assert [step(resumed) for _ in range(10)] == [step(uninterrupted) for _ in range(10)]
    assert resumed.metrics() == uninterrupted.metrics()


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"exploration": 1.5}, "exploration=1.5; expected at least 0 and at most 1"),
        ({"exploration": float("nan")}, "exploration=nan; expected at least 0 and at most 1"),
        ({"min_exploration": -0.1}, "min_exploration=-0.1; expected at least 0 and at most 1"),
        ({"max_epochs": 0}, "max_epochs=0; expected at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], seen: str) -> None:
    with pytest.raises(ValueError, match=f"^{seen}"):
        GresoSelector(**options)  # type: ignore[arg-type]
