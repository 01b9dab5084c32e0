"""Leaves out tasks whose answers no completion could match."""

# Shapes: N tasks in the pool.

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from bots_lightning.rewards.graded import GradedReward
from bots_lightning.tasks import TaskFilter, TaskPool

log = logging.getLogger(__name__)
SHOWN = 3  # tasks in the log


class Gradable(TaskFilter):
    """Keeps the tasks that a reward can grade; a run refuses to start with others. Names the first that it leaves out.

    Args:
        reward: the run's `MathReward`, `CodeReward` or another `GradedReward`.
    """

    def __init__(self, reward: GradedReward) -> None:
        self.reward = reward

    def keeps(self, pool: TaskPool) -> npt.NDArray[np.bool_]:
        """(N,) whether each task can be graded."""
        faults = [self.reward.fault(task) for task in pool]
        found = [f"{pool.named(row)}: {fault}" for row, fault in enumerate(faults) if fault is not None]
        if found:
            more = "; …" if len(found) > SHOWN else ""
            log.warning("%d tasks cannot be graded and are left out: %s%s", len(found), "; ".join(found[:SHOWN]), more)
        return np.array([fault is None for fault in faults])

    def __repr__(self) -> str:
        """For the report of `FilteredTasks`."""
        return f"Gradable({type(self.reward).__name__})"
