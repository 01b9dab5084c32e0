# Shapes: n tasks in the queue.

from __future__ import annotations

import math

import numpy as np
import pytest

from bots_lightning.selection import review
from bots_lightning.selection.chunks import Indices
from bots_lightning.selection.review import LOOKS, ReviewQueue

NOBODY = np.empty(0, dtype=np.int64)


class Posteriors:
    """(α, β) of every task, which counts how many are read."""

    def __init__(self, alpha: list[float] | np.ndarray, beta: list[float] | np.ndarray) -> None:
        self.alpha, self.beta = np.array(alpha, dtype=np.float64), np.array(beta, dtype=np.float64)
        self.read = 0

    def __call__(self, where: Indices) -> tuple[np.ndarray, np.ndarray]:
        self.read += len(where)
        return self.alpha[where], self.beta[where]


def queue_of(since: list[int], share: float = 1.0, mastered: bool = True, bound: float = 0.9) -> ReviewQueue:
    """A queue of tasks 0, 1, … that were last seen at the extreme at these steps."""
    queue = ReviewQueue(mastered, bound, share)
    for task, step in enumerate(since):
        sure = np.array([1e9]), np.array([1e-9])
        queue.observe(np.array([task]), *(sure if mastered else sure[::-1]), step)
    return queue


def test_the_most_overdue_come_first_by_hand() -> None:
    """P(p < 0.9) under Beta(n, 1) is 0.9^n; of k steps, exp(−0.002 k) is left."""
    posteriors = Posteriors([17.0, 33.0, 3.0, 9.0, 1e6], np.ones(5))
    queue = queue_of([0, 0, 8, 4, 2])
    overdue = [
        10 * (1 - (1 - 0.9**17) * math.exp(-0.020)),  # 1.83
        10 * (1 - (1 - 0.9**33) * math.exp(-0.020)),  # 0.50
        2 * (1 - (1 - 0.9**3) * math.exp(-0.004)),  # 1.46
        6 * (1 - (1 - 0.9**9) * math.exp(-0.012)),  # 2.37
        8 * (1 - math.exp(-0.016)),  # 0.13
    ]
    assert sorted(range(5), key=lambda task: -overdue[task]) == [3, 0, 2, 1, 4]
    assert queue.take(5, 5, 10, NOBODY, posteriors).tolist() == [3, 0, 2]
    assert queue.take(2, 2, 10, np.array([3, 7]), posteriors).tolist() == [0, 2]
    assert queue.take(5, 1, 10, NOBODY, posteriors).tolist() == [3]


def test_hopeless_tasks_mirror_mastered_ones() -> None:
    rng = np.random.default_rng(3)
    alpha, beta = rng.gamma(1, 200, 60), rng.gamma(1, 1, 60)
    since = rng.integers(0, 20, 60).tolist()
    mastered, hopeless = queue_of(since), queue_of(since, mastered=False, bound=1 - 0.9)
    chosen = mastered.take(40, 40, 20, NOBODY, Posteriors(alpha, beta))
    assert 5 < len(chosen) < 40
    assert hopeless.take(40, 40, 20, NOBODY, Posteriors(beta, alpha)).tolist() == chosen.tolist()
    rates = np.array([0.05, 0.09, 0.11, 0.89, 0.91])
    for queue, kept in ((mastered, [104]), (hopeless, [100, 101])):
        queue.observe(np.arange(160), np.full(160, 5.0), np.full(160, 5.0), 30)
        queue.observe(100 + np.arange(5), 100 * rates, 100 * (1 - rates), 30)
        assert queue.tasks.tolist() == kept


def test_a_belief_that_is_sure_keeps_a_task_away_for_23_steps_and_no_longer() -> None:
    """22 (1 − exp(−0.044)) = 0.95 and 23 (1 − exp(−0.046)) = 1.03."""
    queue, sure = queue_of([0]), Posteriors([1e12], [1e-12])
    due = [step for step in range(40) if len(queue.take(1, 1, step, NOBODY, sure))]
    assert due == list(range(23, 40))


def test_a_task_that_has_slipped_for_certain_is_due_after_a_step() -> None:
    queue, slipped = queue_of([5]), Posteriors([1.0], [1e9])
    assert [len(queue.take(1, 1, step, NOBODY, slipped)) for step in (5, 6)] == [0, 1]


def test_fractions_of_the_share_are_carried_over_and_what_is_not_due_is_not() -> None:
    """0.15 of 6 tasks is 0.9 a step: 9 in 10 steps, but nothing of the 9 steps before a task is due."""
    slipped = Posteriors(np.ones(50), np.full(50, 1e9))
    early, late = queue_of([0] * 50, share=0.15), queue_of([9] * 50, share=0.15)
    taken = [[len(queue.take(6, 6, step, NOBODY, slipped)) for step in range(1, 11)] for queue in (early, late)]
    assert taken == [[0] + [1] * 9, [0] * 9 + [1]]


def test_visits_restarts_and_looks_by_a_plain_dictionary() -> None:
    """Random events, against the definition: a dictionary of the step at which each task's time began."""
    rng, n = np.random.default_rng(7), 90
    posteriors, queue, began = Posteriors(*rng.gamma(1, 9, (2, n))), ReviewQueue(True, 0.6, 0.25), {}
    reviewed = 0
    for step in range(80):
        posteriors.alpha, posteriors.beta = rng.gamma(1, 9, (2, n))
        rates = posteriors.alpha / (posteriors.alpha + posteriors.beta)
        seen, resting = rng.choice(n, 30, replace=False), rng.choice(n, 20, replace=False)
        queue.notice(seen, *posteriors(seen), step)
        for task in seen.tolist():
            if rates[task] >= 0.6:
                began.setdefault(task, step)
        expected = {}
        for task, since in began.items():
            still = 1 - queue.left(*posteriors(np.array([task])))[0]
            expected[task] = (step - since) * (1 - still * math.exp(-0.002 * (step - since)))
        due = [task for task, score in expected.items() if score >= 1 and task not in resting]
        due = sorted(due, key=lambda task: (-expected[task], task))[:4]
        chosen = queue.take(16, 16, step, resting, posteriors).tolist()
        assert chosen == due
        reviewed += len(chosen)
        queue.restart(np.array(chosen, dtype=np.int64), step)
        began |= dict.fromkeys(chosen, step)
        visited = rng.choice(n, 8, replace=False)
        queue.observe(visited, *posteriors(visited), step)
        for task in visited.tolist():
            began.pop(task, None)
            if rates[task] >= 0.6:
                began[task] = step
        assert dict(zip(queue.tasks.tolist(), queue.since.tolist(), strict=True)) == began
    assert reviewed > 100


def test_a_long_queue_reads_few_posteriors_and_still_finds_who_has_slipped() -> None:
    """1,000 tasks of which the belief is sure; 20 slip after 5 steps, and are found before the others are due."""
    queue, posteriors = queue_of([0] * 1000), Posteriors(np.full(1000, 1e9), np.full(1000, 1e-9))
    slipped, found = np.arange(30, 1000, 49), set()
    for step in range(1, 20):
        if step == 5:
            posteriors.alpha[slipped], posteriors.beta[slipped] = 1.0, 9.0
        posteriors.read = 0
        chosen = queue.take(4, 4, step, NOBODY, posteriors)
        queue.restart(chosen, step)
        assert posteriors.read <= LOOKS
        found |= set(chosen.tolist())
    assert found == set(slipped.tolist())


def test_what_is_due_and_does_not_fit_waits_behind_the_others() -> None:
    """All of 600 tasks have slipped, 2 are taken a step: within 5 steps of 128, every posterior has been read."""
    queue, read = queue_of([0] * 600), set()

    def slipped(where: Indices) -> tuple[np.ndarray, np.ndarray]:
        read.update(where.tolist())
        return np.ones(len(where)), np.full(len(where), 1e9)

    for step in range(1, 6):
        queue.restart(queue.take(2, 2, step, NOBODY, slipped), step)
    assert len(read) == 600


def test_a_full_queue_takes_no_more_and_half_is_kept_for_visited_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "MOST", 6)
    queue, sure = ReviewQueue(True, 0.9, 0.1), (np.full(10, 1e9), np.full(10, 1e-9))
    queue.notice(np.arange(20, 30), *sure, 0)
    assert queue.tasks.tolist() == [20, 21, 22]
    queue.observe(np.arange(10), *sure, 1)
    assert queue.tasks.tolist() == [0, 1, 2, 20, 21, 22]
    queue.observe(np.array([21, 4]), np.array([1.0, 1e9]), np.array([1.0, 1e-9]), 2)
    assert queue.tasks.tolist() == [0, 1, 2, 4, 20, 22]
    queue.notice(np.arange(30, 40), *sure, 3)
    assert len(queue.tasks) == 6


def test_a_queue_goes_on_from_its_state() -> None:
    rng = np.random.default_rng(1)
    posteriors = Posteriors(rng.gamma(1, 30, 300), rng.gamma(1, 1, 300))
    queue, resumed = queue_of([0] * 300, share=0.3), ReviewQueue(True, 0.9, 0.3)
    for step in range(1, 30):
        if step == 8:
            resumed.load_state_dict(queue.state_dict())
        batches = [each.take(7, 7, step, NOBODY, posteriors) for each in (queue, resumed)]
        queue.restart(batches[0], step)
        if step >= 8:
            resumed.restart(batches[1], step)
            np.testing.assert_array_equal(*batches)
            assert len(batches[0]) in (2, 3)
