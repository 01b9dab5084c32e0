"""Mastered and hopeless tasks come back when due: the former may be forgotten, the latter may have become possible."""

# Shapes: n tasks in the queue, m tasks handed in.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.beliefs.densities import probability_below
from bots_lightning.selection.chunks import Indices, smallest

# Tasks whose posterior is read for a batch, some microseconds each.
LOOKS = 128
# The most tasks in a queue; when half of that wait, only tasks that were visited join it.
MOST = 1 << 16
# Probability per step that a task leaves its extreme unknown to the belief.
HAZARD = 0.002


class ReviewQueue:
    """Tasks that were last seen at one extreme, mastered or hopeless, and how overdue they are.

        overdue_k = (t − t_k) · (1 − P(p_k is still at the extreme) · exp(−0.002 (t − t_k))),   due if ≥ 1

    t_k is the step of the last visit, or, of a task that was never visited, the step at which its predicted pass rate
    was first seen at the extreme. P is the belief's; the exponential is for what it does not know, since solved prompts
    regress, and repair costs more the longer it is delayed (arXiv:2606.03087). The score is the number of steps that a
    task is expected to have been away from the extreme, had it left at once: it grows with time, and faster if little
    was known of the task or its group gets worse. Whatever the belief, a task is due within 23 steps.

    A batch costs O(n), n at most 65,536, and the posteriors of 128 tasks: if more wait, those that were predicted to be
    due first, at the latest after twice the time that they had waited at the last look.

    Args:
        mastered: True for tasks with pass rates ≥ `bound`, False for hopeless ones, with pass rates ≤ `bound`.
        bound: of the predicted pass rate.
        share: of each batch; fractions of a task are carried over.
    """

    def __init__(self, mastered: bool, bound: float, share: float) -> None:
        self.mastered, self.bound, self.share = mastered, bound, share
        self._owed = 0.0  # tasks of the share
        self.tasks: Indices = np.empty(0, dtype=np.int64)  # (n,) ascending
        self.since: Indices = self.tasks.copy()  # (n,) t_k
        self._look: Indices = self.tasks.copy()  # (n,) step at which to read the posterior again

    def take(
        self,
        batch_size: int,
        room: int,
        step: int,
        resting: Indices,
        concentrations: Callable[[Indices], tuple[FloatArray, FloatArray]],
    ) -> Indices:
        """Tasks for the queue's share of a batch; they stay in the queue.

        Args:
            batch_size: B.
            room: the most tasks to return.
            step: t, the number of selections so far.
            resting: tasks that may not be chosen.
            concentrations: (α, β) of tasks.

        Returns:
            Positions, the most overdue first; fewer than the share if fewer are due.
        """
        self._owed += self.share * batch_size
        size = min(int(self._owed + 1e-9), room)
        if size == 0:
            return np.empty(0, dtype=np.int64)
        self._owed -= size
        free = self.since < step
        free[self._places(resting)] = False
        at = np.flatnonzero(free)
        at = at[smallest(self._look[at], max(LOOKS, 2 * size))]
        waited = step - self.since[at]
        left = 1 - (1 - self.left(*concentrations(self.tasks[at]))) * np.exp(-HAZARD * waited)
        overdue = waited * left
        self._look[at] = self.since[at] + np.maximum(waited, np.minimum(np.ceil(1 / left), 2 * waited))
        due = overdue >= 1
        chosen: Indices = self.tasks[at[due][smallest(-overdue[due], size)]]
        return chosen

    def left(self, alpha: FloatArray, beta: FloatArray) -> FloatArray:
        """Probability that pass rates of these Beta distributions have left the extreme: P(p < bound), or P(p > bound).

        Args:
            alpha: (m,) α.
            beta: (m,) β.

        Returns:
            (m,).
        """
        below = probability_below(self.bound, alpha, beta)
        return below if self.mastered else 1 - below

    def _at_extreme(self, alpha: FloatArray, beta: FloatArray) -> npt.NDArray[np.bool_]:
        rates = alpha / (alpha + beta)
        return rates >= self.bound if self.mastered else rates <= self.bound

    def observe(self, tasks: Indices, alpha: FloatArray, beta: FloatArray, step: int) -> None:
        """Keeps those of the visited tasks that are at the extreme, whose time begins anew; the others leave.

        Args:
            tasks: (m,) positions, all different.
            alpha: (m,) α after the visit.
            beta: (m,) β after the visit.
            step: of the visit.
        """
        kept = np.delete(np.arange(len(self.tasks)), self._places(tasks))
        self.tasks, self.since, self._look = self.tasks[kept], self.since[kept], self._look[kept]
        self._add(tasks[self._at_extreme(alpha, beta)][: MOST - len(self.tasks)], step)

    def notice(self, tasks: Indices, alpha: FloatArray, beta: FloatArray, step: int) -> None:
        """Adds those of some tasks that are predicted to be at the extreme.

        Args:
            tasks: (m,) positions, all different.
            alpha: (m,) present α.
            beta: (m,) present β.
            step: t.
        """
        new = self._at_extreme(alpha, beta) & ~np.isin(tasks, self.tasks[self._places(tasks)])
        self._add(tasks[new][: max(0, MOST // 2 - len(self.tasks))], step)

    def restart(self, tasks: Indices, step: int) -> None:
        """Begins the time of selected tasks anew, whether or not they yield evidence.

        Args:
            tasks: (m,) positions.
            step: t.
        """
        at = self._places(tasks)
        self.since[at], self._look[at] = step, step

    def _places(self, tasks: Indices) -> Indices:
        """Places in the queue of those of these tasks that are in it."""
        at = np.searchsorted(self.tasks, tasks)
        inside = at < len(self.tasks)
        at, tasks = at[inside], tasks[inside]
        found: Indices = at[self.tasks[at] == tasks]
        return found

    def _add(self, tasks: Indices, step: int) -> None:
        tasks = np.sort(tasks)
        at = np.searchsorted(self.tasks, tasks)
        self.tasks = np.insert(self.tasks, at, tasks)
        self.since, self._look = np.insert(self.since, at, step), np.insert(self._look, at, step)

    def state_dict(self) -> dict[str, Any]:
        """The queue and what is owed to it."""
        arrays = {"tasks": self.tasks.copy(), "since": self.since.copy(), "look": self._look.copy()}
        return arrays | {"owed": self._owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the queue and what is owed to it."""
        self.tasks, self.since, self._look = (
            np.array(state[name], dtype=np.int64) for name in ("tasks", "since", "look")
        )
        self._owed = float(state["owed"])
