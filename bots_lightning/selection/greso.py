"""GRESO: shuffled epochs that mostly skip the tasks whose rewards were all equal lately."""

# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.chunks import Indices
from bots_lightning.selection.epoch import ShuffledEpoch
from bots_lightning.selection.selector import TaskSelector


class GresoSelector(TaskSelector):
    """Passes over the pool in random order and skips task k with probability 1 − max(p^z_k, floor).

    z_k counts the visits since the task's rewards last differed. For binary rewards the success count s of G rollouts
    tells equal rewards exactly: s = 0 or s = G. For other rewards this recognizes groups at the ends of the range
    only, and a group of equal rewards in between counts as one whose rewards differ.

    The filter of GRESO (arXiv:2506.02177) at its fixed initial p; the paper goes on to adapt p apart for easy and
    hard tasks, and to drop groups with equal rewards and refill the batch after the rollouts. Before any task has had
    equal rewards the draws are those of `UniformSelector`.

    Args:
        exploration: p, the probability that a task is kept after one visit with equal rewards.
        min_exploration: the floor, below which no task's probability of being kept falls.
        max_passes: passes over the pool for one batch, after which tasks are taken as they come.
    """

    def __init__(self, exploration: float = 0.5, min_exploration: float = 0.01, max_passes: int = 10) -> None:
        for name, value in (("exploration", exploration), ("min_exploration", min_exploration)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}; expected a number in [0, 1].")
        if max_passes < 1:
            raise ValueError(f"max_passes={max_passes}; expected at least 1.")
        self.exploration = exploration
        self.min_exploration = min_exploration
        self.max_passes = max_passes

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Shuffles the first epoch; no task has been visited."""
        super().setup(features, seed)
        self._epoch = ShuffledEpoch(self.num_tasks, self.rng)
        self._equal_visits = np.zeros(self.num_tasks, dtype=np.int64)

    def add_tasks(self, features: TaskFeatures) -> None:
        """The new tasks join the present epoch."""
        old = self.num_tasks
        super().add_tasks(features)
        self._epoch.add(self.num_tasks - old, self.rng)
        self._equal_visits = np.concatenate([self._equal_visits, np.zeros(self.num_tasks - old, dtype=np.int64)])

    def keep_probabilities(self) -> FloatArray:
        """max(p^z, floor) for every task, shape (N,)."""
        return np.maximum(self.exploration**self._equal_visits, self.min_exploration)

    def select(self, batch_size: int) -> Indices:
        """(B,) the next tasks of the shuffled epochs that are not skipped."""
        self.check_batch_size(batch_size)
        keep, batch, considered = self.keep_probabilities(), dict[int, None](), 0
        while len(batch) < batch_size:
            task = self._epoch.next(batch, self.rng)
            kept = considered >= self.max_passes * self.num_tasks or keep[task] == 1 or self.rng.random() < keep[task]
            if kept:
                batch[task] = None  # without effect on a task that came up a second time
            considered += 1
        return np.array(list(batch), dtype=np.int64)

    def observe(self, evidence: Evidence) -> None:
        """Counts one more visit with equal rewards, or starts counting anew; rows of the same task are one visit."""
        evidence = evidence.merged()
        equal = (evidence.successes == 0) | (evidence.successes == evidence.counts)
        self._equal_visits[evidence.indices] = np.where(equal, self._equal_visits[evidence.indices] + 1, 0)

    def metrics(self) -> dict[str, float]:
        """The probability that a task is skipped, mean over the pool."""
        return {"selection/skip_probability": float(1 - self.keep_probabilities().mean())}

    def state_dict(self) -> dict[str, Any]:
        """Adds the rest of the epoch and each task's visits with equal rewards."""
        return super().state_dict() | self._epoch.state_dict() | {"equal_visits": self._equal_visits.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues in the middle of an epoch."""
        super().load_state_dict(state)
        self._epoch.load_state_dict(state)
        self._equal_visits = np.array(state["equal_visits"], dtype=np.int64)
