"""Rewards of a batch, begun while the last of its completions are still being sampled."""

# Shapes: F functions, B tasks, n_b rollouts of task b (counts), R = Σ n_b rows; the rows of a task follow each other.

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from bots_lightning.rewards.calls import check_completions, checked_scores, row_columns, shared_columns, tasks_of_rows
from bots_lightning.rewards.graded import GradedReward, Outcomes
from bots_lightning.rewards.scorer import Scorer, grader_in
from bots_lightning.tasks import Task

_turn = threading.Lock()  # of calls whose outcomes are read next: those of several batches may come at a time


class RewardStream:
    """The `Scorer.scores` of one batch; graded rewards begin once all completions of a first task have ended.

    Those work in processes of their own and look at each completion by itself, so that sampling can go on beside them.
    One thread calls them, with all that waits at a time: the slower they are, the larger the calls. It ends when
    nothing waits any more; the next task that is completed starts another.

    All other functions are called by `finish`, on its thread, once, with the whole batch: they may use signals, or
    compare completions.

    Args:
        scorer: whose functions to call. Its own `outcomes` are left unchanged.
        tasks: B of them.
        counts: (B,) completions of each task.
        decode: token ids of some completions to their texts; called on the grading thread.

    Attributes:
        outcomes: how the completions of this batch were graded, once it is finished.

    Raises:
        ValueError: there are more or fewer counts than tasks.
    """

    def __init__(
        self,
        scorer: Scorer,
        tasks: Sequence[Task],
        counts: Sequence[int],
        decode: Callable[[list[list[int]]], list[str]],
    ) -> None:
        self.outcomes = Outcomes()
        self._tasks, self._decode = tasks, decode
        self._task_of_row = tasks_of_rows(tasks, counts)
        self._rows = [range(end - count, end) for end, count in zip(accumulate(counts), counts, strict=True)]
        self._graders = [(i, f) for i, f in enumerate(scorer.functions) if isinstance(f, GradedReward)]
        self._others = [(i, f) for i, f in enumerate(scorer.functions) if not isinstance(f, GradedReward)]
        self._names = shared_columns(tasks)
        self._scores = np.full((len(scorer.functions), len(self._task_of_row)), np.nan)
        self._ungraded = set(range(len(tasks)))
        self._failure: BaseException | None = None
        self._lock = threading.Lock()  # of what follows
        self._waiting: list[tuple[int, list[list[int]]]] = []
        self._thread: threading.Thread | None = None
        self._closed = not self._graders

    def completed(self, position: int, token_lists: list[list[int]]) -> None:
        """Has a task's completions graded; returns at once, on any thread.

        Args:
            position: of the task in the batch; each once at most.
            token_lists: the token ids of its n_b completions.

        Raises:
            ValueError: there are more or fewer completions.
        """
        expected = len(self._rows[position])
        if len(token_lists) != expected:
            task_id = self._tasks[position].id
            raise ValueError(f"{len(token_lists)} completions of task {task_id!r}; expected {expected}.")
        with self._lock:
            if self._closed:
                return
            self._waiting.append((position, token_lists))
            if self._thread is None:
                self._thread = threading.Thread(target=self._grade_waiting, name="rewards", daemon=True)
                self._thread.start()

    def finish(
        self, completions: Sequence[str], completion_ids: Sequence[list[int]] | None = None
    ) -> npt.NDArray[np.float64]:
        """Scores the batch; tasks that were not reported as completed are graded now.

        Args:
            completions: R texts.
            completion_ids: R lists of their tokens, for functions that count those.

        Returns:
            (F, R) float, unweighted, NaN where a function does not apply.

        Raises:
            ValueError: a function returns the wrong number of rewards, or no number; or completions are missing.
        """
        check_completions(completions, self._tasks, len(self._task_of_row))
        try:
            self._call_others(completions, completion_ids)
            self.wait()
            if self._failure is not None:
                raise self._failure
            rest = sorted(self._ungraded)
            self._grade(rest, [completions[row] for position in rest for row in self._rows[position]])
        finally:
            self.close()
        return self._scores

    def wait(self) -> None:
        """Returns once all tasks that have been completed are graded, or given up.

        Raises nothing: a failure of the grading is raised by `finish`.
        """
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """Gives the batch up: what waits is dropped, and the thread ends with its present call. Returns at once."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def _call_others(self, completions: Sequence[str], completion_ids: Sequence[list[int]] | None) -> None:
        columns = row_columns(self._task_of_row, self._names) if self._others else {}
        columns |= {} if completion_ids is None else {"completion_ids": list(completion_ids)}
        for i, function in self._others:
            grader = grader_in(function)  # that the function asks
            with nullcontext() if grader is None else _turn:
                self._scores[i] = checked_scores(function, completions, columns)
                self.outcomes += Outcomes() if grader is None else grader.outcomes

    def _grade_waiting(self) -> None:
        """All that the thread does."""
        try:
            while waiting := self._take_waiting():
                texts = self._decode([tokens for _, token_lists in waiting for tokens in token_lists])
                self._grade([position for position, _ in waiting], texts)
        except BaseException as error:  # raised again by `finish`
            self._failure = error
            self.close()

    def _take_waiting(self) -> list[tuple[int, list[list[int]]]]:
        with self._lock:
            taken, self._waiting = self._waiting, []
            if not taken:
                self._thread = None
        return taken

    def _grade(self, positions: list[int], completions: Sequence[str]) -> None:
        """Scores all completions of the tasks at these positions."""
        rows = [row for position in positions for row in self._rows[position]]
        if not rows or not self._graders:
            return
        columns = row_columns([self._task_of_row[row] for row in rows], self._names)
        for i, grader in self._graders:
            with _turn:
                self._scores[i, rows] = checked_scores(grader, completions, columns)
                self.outcomes += grader.outcomes
        self._ungraded.difference_update(positions)
