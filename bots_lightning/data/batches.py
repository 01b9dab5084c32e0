"""Batches of tasks: what each rank is given to roll out."""

# Shapes: B tasks in the batch.

from __future__ import annotations

from collections.abc import Iterable

from bots_lightning.data.draws import DrawnTask
from bots_lightning.tasks import Task, TaskPool


class TaskBatch:
    """The tasks of one step: this rank's share of what the selector drew.

    No dataclass: Lightning would take that apart in search of tensors.

    Args:
        indices: B positions in the pool.
        tasks: the B tasks themselves.
        positions: B places in what was drawn for all ranks, or in the pool that is evaluated; each task's completions
            are seeded by its place, so that they do not depend on the rank.
        counts: B numbers of rollouts.
        starts: B numbers of rollouts that the tasks have had before, in this step; 0 by default.
    """

    def __init__(
        self,
        indices: list[int],
        tasks: list[Task],
        positions: list[int],
        counts: list[int],
        starts: list[int] | None = None,
    ) -> None:
        self.indices, self.tasks, self.positions, self.counts = indices, tasks, positions, counts
        self.starts = starts or [0] * len(tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    @staticmethod
    def of(drawn: Iterable[DrawnTask], pool: TaskPool) -> TaskBatch:
        """The batch of the given tasks.

        Args:
            drawn: at least one task, by its position in the pool.
            pool: where the tasks are.

        Returns:
            a batch in the order of `drawn`.
        """
        positions, indices, counts = map(list, zip(*drawn, strict=True))
        return TaskBatch(indices, [pool[index] for index in indices], positions, counts)
