"""GRESO: shuffled epochs that skip most of the tasks whose latest rewards were all equal."""

# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.options import check_numbers
from bots_lightning.selection.chunks import Indices
from bots_lightning.selection.epoch import ShuffledEpoch
from bots_lightning.selection.selector import TaskSelector


class GresoSelector(TaskSelector):
    """Draws tasks in shuffled epochs and skips task k with probability 1 − max(p^z_k, floor).

    z_k counts the visits since the task's rewards last differed. For binary rewards, the rewards of G rollouts are
    all equal exactly if their success count is 0 or G. For other rewards, only groups at either end of the range are
    detected; a group of equal rewards in between counts as one whose rewards differ.

    This is the filter of GRESO (arXiv:2506.02177) with its initial p. The paper also adapts p separately for easy and
    hard tasks, and drops groups with equal rewards after the rollouts and refills the batch. Until some task has had
    equal rewards, the draws are those of `UniformSelector`.

    Args:
        exploration: p, the probability that a task is kept after one visit with equal rewards.
        min_exploration: the floor, lower bound of every task's probability of being kept.
        max_epochs: epochs searched for one batch, after which no task is skipped.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, exploration: float = 0.5, min_exploration: float = 0.01, max_epochs: int = 10) -> None:
        check_numbers(0, high=1, exploration=exploration, min_exploration=min_exploration)
        check_numbers(1, max_epochs=max_epochs)
        self.exploration = exploration
        self.min_exploration = min_exploration
        self.max_epochs = max_epochs

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Shuffles the first epoch; no task has been visited.

        Args:
            features: of the pool's tasks.
            seed: of the generator that shuffles and skips.
        """
        super().setup(features, seed)
        self._epoch = ShuffledEpoch(self.num_tasks, self.rng)
        self._equal_visits = np.zeros(self.num_tasks, dtype=np.int64)

    def add_tasks(self, features: TaskFeatures) -> None:
        """Inserts the new tasks into the rest of the current epoch."""
        old = self.num_tasks
        super().add_tasks(features)
        self._epoch.add(self.num_tasks - old, self.rng)
        self._equal_visits = np.concatenate([self._equal_visits, np.zeros(self.num_tasks - old, dtype=np.int64)])

    def keep_probabilities(self) -> FloatArray:
        """Probability max(p^z, floor) that each task is not skipped, shape (N,)."""
        kept: FloatArray = np.maximum(self.exploration**self._equal_visits, self.min_exploration)
        return kept

    def select(self, batch_size: int) -> Indices:
        """(B,) positions of the next tasks of the shuffled epochs that are not skipped."""
        self.check_batch_size(batch_size)
        keep, batch, considered = self.keep_probabilities(), dict[int, None](), 0
        while len(batch) < batch_size:
            task = self._epoch.next(batch, self.rng)
            kept = considered >= self.max_epochs * self.num_tasks or keep[task] == 1 or self.rng.random() < keep[task]
            if kept:
                batch[task] = None  # no effect if the task is in the batch already
            considered += 1
        return np.array(list(batch), dtype=np.int64)

    def observe(self, evidence: Evidence) -> None:
        """Counts a visit with equal rewards, or resets the count if they differ; rows of one task are one visit."""
        evidence = evidence.merged()
        equal = (evidence.successes == 0) | (evidence.successes == evidence.counts)
        self._equal_visits[evidence.indices] = np.where(equal, self._equal_visits[evidence.indices] + 1, 0)

    def metrics(self) -> dict[str, float]:
        """Mean probability over the pool that a task is skipped."""
        return {"selection/skip_probability": float(1 - self.keep_probabilities().mean())}

    def state_dict(self) -> dict[str, Any]:
        """Adds the rest of the epoch and each task's visits with equal rewards."""
        return super().state_dict() | self._epoch.state_dict() | {"equal_visits": self._equal_visits.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, epoch and visits."""
        super().load_state_dict(state)
        self._epoch.load_state_dict(state)
        self._equal_visits = np.array(state["equal_visits"], dtype=np.int64)
