# Shapes: N tasks in the pool, V tasks that are held, B tasks to select; states: 0 unsolved, 1 partly solved, 2 solved.

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import DPSSelector
from bots_lightning.selection.dps import predicted, transition_counts

UNSOLVED, PARTLY, SOLVED = 0.0, 3.0, 8.0  # successes of 8


def selector_of(num_tasks: int, seed: int = 0, **options: float) -> DPSSelector:
    selector = DPSSelector(**options)
    selector.setup(TaskFeatures(num_tasks), seed)
    return selector


def visit(selector: DPSSelector, outcomes: dict[int, float]) -> None:
    """One step with these successes of 8 rollouts."""
    tasks = np.array(list(outcomes), dtype=np.int64)
    selector.observe(Evidence(tasks, np.array(list(outcomes.values())), np.full(len(tasks), 8.0)))


def test_a_first_visit_by_hand() -> None:
    """ξ adds 1/3 to the observed column of every row: (1 + 1/3) / (3 + 1/3) = 0.4 there, 0.3 elsewhere."""
    selector = selector_of(4)
    visit(selector, {0: PARTLY, 1: UNSOLVED, 2: SOLVED})
    np.testing.assert_allclose(selector.partly_solved(np.arange(4)), [0.4, 0.3, 0.3, 1 / 3])


def test_a_second_visit_by_hand() -> None:
    """γ = 1/2. The state before was partly solved, so that only its row changes: W = 1, 1 + 1/6, 1, then + 1."""
    selector = selector_of(1, decay=0.5)
    visit(selector, {0: PARTLY})
    visit(selector, {0: PARTLY})
    row = np.array([1, 1 + 1 / 6 + 1, 1])
    assert selector.partly_solved(np.array([0]))[0] == pytest.approx(row[1] / row.sum())
    visit(selector, {0: SOLVED})  # from the same row; then the row of `solved` counts, where 1/3 is 1/12 by now
    row = np.array([1, 1 + 1 / 12, 1])
    assert selector.partly_solved(np.array([0]))[0] == pytest.approx(row[1] / row.sum())


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_transition_counts_are_the_posterior_of_the_pair(weights: list[float], observed: int, seed: int) -> None:
    """By Bayes' rule over all pairs of states."""
    states, transitions = np.array(weights) / sum(weights), np.random.default_rng(seed).uniform(0.1, 5, (3, 3))
    joint = np.zeros((3, 3))
    for before, after in product(range(3), range(3)):
        if after == observed:
            joint[before, after] = states[before] * transitions[before, after] / transitions[before].sum()
    found = transition_counts(states[None], transitions[None], np.array([observed]))[0]
    np.testing.assert_allclose(found, joint / joint.sum())


def test_without_decay_an_untried_task_follows_its_markov_chain() -> None:
    """The prediction after d steps is a row of a power of the expected transition matrix."""
    selector = selector_of(2, decay=1.0)
    for outcome in (PARTLY, SOLVED, PARTLY, PARTLY):
        visit(selector, {0: outcome})
    weights = selector.state_dict()["transitions"][0]
    matrix = weights / weights.sum(axis=1, keepdims=True)
    for steps in range(1, 6):
        expected = np.linalg.matrix_power(matrix, steps)[1, 1]
        assert selector.partly_solved(np.array([0]))[0] == pytest.approx(expected)
        visit(selector, {1: SOLVED})


class Dense:
    """The model of every task, updated at every step."""

    def __init__(self, num_tasks: int, decay: float, prior: float) -> None:
        self.decay, self.prior = decay, prior
        self.weights = [np.full((3, 3), prior) for _ in range(num_tasks)]
        self.states = [np.full(3, 1 / 3) for _ in range(num_tasks)]

    def next_state(self, task: int) -> np.ndarray:
        weights = self.weights[task]
        return np.array(
            [sum(self.states[task][i] * weights[i, j] / weights[i].sum() for i in range(3)) for j in range(3)]
        )

    def visit(self, outcomes: dict[int, float]) -> None:
        for task in range(len(self.states)):
            following, added = self.next_state(task), np.zeros((3, 3))
            if task in outcomes:
                state = 0 if outcomes[task] == 0 else 2 if outcomes[task] == 8 else 1
                shares = self.states[task] * self.weights[task][:, state] / self.weights[task].sum(axis=1)
                added[:, state] = shares / shares.sum()
                following = np.eye(3)[state]
            self.weights[task] = self.decay * self.weights[task] + (1 - self.decay) * self.prior + added
            self.states[task] = following


steps_of_pools = st.lists(
    st.dictionaries(st.integers(0, 5), st.sampled_from([UNSOLVED, PARTLY, SOLVED]), max_size=4), max_size=25
)


@given(steps_of_pools, st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.sampled_from([0.5, 1.0]))
def test_predictions_are_those_of_updating_every_task(
    steps: list[dict[int, float]], decay: float, prior: float
) -> None:
    selector, dense = selector_of(6, decay=decay, prior=prior), Dense(6, decay, prior)
    for outcomes in steps:
        visit(selector, outcomes)
        dense.visit(outcomes)
        expected = [dense.next_state(task)[1] for task in range(6)]
        np.testing.assert_allclose(selector.partly_solved(np.arange(6)), expected, atol=1e-9)


def test_predictions_are_distributions() -> None:
    rng = np.random.default_rng(0)
    states = rng.dirichlet(np.ones(3), 20)
    following = predicted(states, rng.uniform(0.1, 3, (20, 3, 3)))
    np.testing.assert_allclose(following.sum(axis=1), 1)


def test_the_likeliest_come_first() -> None:
    selector = selector_of(8)
    visit(selector, {0: PARTLY, 1: UNSOLVED, 2: PARTLY, 3: SOLVED})
    visit(selector, {0: PARTLY})  # above 2, which is above the untried, which are above 1 and 3
    batch = selector.select(8).tolist()
    assert batch[:2] == [0, 2]
    assert set(batch[2:6]) == {4, 5, 6, 7}
    assert set(batch[6:]) == {1, 3}


def test_untried_tasks_are_equally_likely() -> None:
    selector = selector_of(12)
    visit(selector, {0: SOLVED, 1: UNSOLVED})
    counts = np.bincount(np.concatenate([selector.select(3) for _ in range(2000)]), minlength=12)
    assert counts[:2].tolist() == [0, 0]
    np.testing.assert_allclose(counts[2:], 600, atol=100)  # 4.9 standard deviations of 20.5


def test_a_task_that_rests_is_forgotten() -> None:
    selector = selector_of(5)
    visit(selector, {3: SOLVED})
    tracked = []
    for _ in range(100):
        tracked.append(selector.metrics()["selection/tracked_tasks"])
        visit(selector, {})
    assert sorted(tracked, reverse=True) == tracked
    assert (tracked[0], tracked[-1]) == (1, 0)
    assert tracked.count(1) < 80
    assert selector.partly_solved(np.arange(5)).tolist() == [1 / 3] * 5


def test_rows_of_one_task_are_one_visit() -> None:
    """All of the first row, none of the second: partly solved; rows without rollouts are none."""
    one, other = selector_of(3), selector_of(3)
    one.observe(Evidence(np.array([1, 1, 2]), np.array([4.0, 0.0, 0.0]), np.array([4.0, 4.0, 0.0])))
    visit(other, {1: 4.0})
    np.testing.assert_array_equal(one.partly_solved(np.arange(3)), other.partly_solved(np.arange(3)))


def test_ten_million_tasks_take_as_long_as_those_that_were_tried() -> None:
    selector = selector_of(10**7)
    for step in range(30):
        batch = selector.select(8)
        assert len(np.unique(batch)) == 8
        visit(selector, {int(task): PARTLY if task % 2 else SOLVED for task in batch})
        assert selector.metrics()["selection/tracked_tasks"] <= 8 * (step + 1)
    assert sum(array.nbytes for array in selector.state_dict().values() if isinstance(array, np.ndarray)) < 50_000
    assert (selector.select(8) % 2 == 1).all()


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"decay": -0.1}, "decay=-0.1; expected at least 0 and at most 1"),
        ({"prior": 0.0}, "prior=0.0; expected a finite number, more than 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], seen: str) -> None:
    with pytest.raises(ValueError, match=f"^{seen}"):
        DPSSelector(**options)
