"""Rewards of a batch, begun while the last of its completions are still being sampled."""

# Shapes: F functions, B tasks, G rollouts per task.

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from bots_lightning.rewards.calls import checked_scores, row_columns, shared_columns
from bots_lightning.rewards.judged import JudgedReward, Outcomes
from bots_lightning.rewards.scorer import Scorer, judge_in
from bots_lightning.tasks import Task


class RewardStream:
    """What `Scorer.scores` says of one batch; judged rewards begin once all completions of a first task have ended.

    Those work in processes of their own and look at each completion by itself, so that sampling can go on beside them.
    One thread calls them, with all that waits at a time: the slower they are, the larger the calls. It ends when
    nothing waits any more; the next task that is completed starts another.

    All other functions are called by `finish`, on its thread, once, with the whole batch: they may use signals, or
    compare completions.

    Args:
        scorer: whose functions to call. Its own `outcomes` are left as they are.
        tasks: B of them.
        generations: completions per task (G).
        decode: token ids of some completions to their texts, on the judging thread.

    Attributes:
        outcomes: how the completions of this batch were judged, once it is finished.
    """

    def __init__(
        self, scorer: Scorer, tasks: Sequence[Task], generations: int, decode: Callable[[list[list[int]]], list[str]]
    ) -> None:
        self.outcomes = Outcomes()
        self._tasks, self._generations, self._decode = tasks, generations, decode
        self._judges = [(i, f) for i, f in enumerate(scorer.functions) if isinstance(f, JudgedReward)]
        self._others = [(i, f) for i, f in enumerate(scorer.functions) if not isinstance(f, JudgedReward)]
        self._names = shared_columns(tasks)
        self._scores = np.full((len(scorer.functions), len(tasks), generations), np.nan)
        self._unjudged = set(range(len(tasks)))
        self._failure: BaseException | None = None
        self._lock = threading.Lock()  # of what follows
        self._waiting: list[tuple[int, list[list[int]]]] = []
        self._thread: threading.Thread | None = None
        self._closed = not self._judges

    def completed(self, position: int, token_lists: list[list[int]]) -> None:
        """Has a task's completions judged; returns at once, on any thread.

        Args:
            position: of the task in the batch; each once at most.
            token_lists: the token ids of its G completions.

        Raises:
            ValueError: there are more or fewer completions.
        """
        if len(token_lists) != self._generations:
            task_id = self._tasks[position].id
            raise ValueError(f"{len(token_lists)} completions of task {task_id!r}; expected {self._generations}.")
        with self._lock:
            if self._closed:
                return
            self._waiting.append((position, token_lists))
            if self._thread is None:
                self._thread = threading.Thread(target=self._judge_waiting, name="rewards", daemon=True)
                self._thread.start()

    def finish(
        self, completions: Sequence[str], completion_ids: Sequence[list[int]] | None = None
    ) -> npt.NDArray[np.float64]:
        """What each of the F functions says, unweighted; tasks that were not said to be completed are judged now.

        Args:
            completions: B·G texts, row b·G + j being completion j of task b.
            completion_ids: their tokens, for functions that count those.

        Returns:
            (F, B, G) float, NaN where a function does not apply.

        Raises:
            ValueError: a function returns the wrong number of rewards, or no number; or completions are missing.
        """
        generations = self._generations
        if len(completions) != len(self._tasks) * generations:
            raise ValueError(
                f"{len(completions)} completions of {len(self._tasks)} tasks; expected {generations} of each."
            )
        try:
            self._call_others(completions, completion_ids)
            self.wait()
            if self._failure is not None:
                raise self._failure
            rest = sorted(self._unjudged)
            self._judge(rest, [text for b in rest for text in completions[b * generations : (b + 1) * generations]])
            self._count_others()
        finally:
            self.close()
        return self._scores

    def wait(self) -> None:
        """Returns once all tasks that have been completed are judged, or given up.

        Raises nothing: whether judging has failed, `finish` says.
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
        columns = row_columns(self._tasks, self._generations, self._names) if self._others else {}
        columns |= {} if completion_ids is None else {"completion_ids": list(completion_ids)}
        for i, function in self._others:
            self._scores[i] = checked_scores(function, completions, columns).reshape(-1, self._generations)

    def _count_others(self) -> None:
        """Outcomes of judges that another function has asked."""
        for _, function in self._others:
            if (judge := judge_in(function)) is not None:
                self.outcomes += judge.outcomes

    def _judge_waiting(self) -> None:
        """All that the thread does."""
        try:
            while waiting := self._take_waiting():
                texts = self._decode([tokens for _, token_lists in waiting for tokens in token_lists])
                self._judge([position for position, _ in waiting], texts)
        except BaseException as error:  # raised again by `finish`
            self._failure = error
            self.close()

    def _take_waiting(self) -> list[tuple[int, list[list[int]]]]:
        with self._lock:
            taken, self._waiting = self._waiting, []
            if not taken:
                self._thread = None
        return taken

    def _judge(self, positions: list[int], completions: Sequence[str]) -> None:
        """Scores all completions of the tasks at these positions."""
        if not positions or not self._judges:
            return
        columns = row_columns([self._tasks[position] for position in positions], self._generations, self._names)
        for i, judge in self._judges:
            self._scores[i, positions] = checked_scores(judge, completions, columns).reshape(-1, self._generations)
            self.outcomes += judge.outcomes
        self._unjudged.difference_update(positions)
