"""Batches of tasks: what they hold, and the loaders that serve them."""

# Places of a task: its position in what was drawn or is evaluated, and its position in the pool.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch.utils.data import DataLoader, Dataset

from bots_lightning.tasks import Task, TaskPool

Places = tuple[int, int]


class TaskBatch:
    """The tasks of one step: this rank's share of what the selector drew.

    No dataclass: Lightning would take that apart in search of tensors.

    Attributes:
        indices: positions in the pool.
        tasks: the tasks themselves.
        positions: places in what was drawn for all ranks, or in the pool that is evaluated; each task's completions
            are seeded by its place, so that they do not depend on the rank.
    """

    def __init__(self, indices: list[int], tasks: list[Task], positions: list[int]) -> None:
        self.indices, self.tasks, self.positions = indices, tasks, positions

    def __len__(self) -> int:
        return len(self.tasks)


class Batches(Protocol):
    """A batch sampler, in torch's terms."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Places]]: ...


def task_loader(pool: Callable[[], TaskPool], batches: Batches) -> DataLoader[tuple[int, int, Task]]:
    """A sized loader in this process, which asks for one batch at a time: no draw runs ahead."""
    return DataLoader(_IndexedPool(pool), batch_sampler=batches, collate_fn=_collate, num_workers=0)


class DrawnBatches:
    """A batch sampler whose batches are drawn one at a time, when iterated and never before.

    Args:
        draw: the next batch; True asks for the first of an epoch.
        steps: how many.
    """

    def __init__(self, draw: Callable[[bool], list[Places]], steps: int) -> None:
        self.draw, self.steps = draw, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Places]]:
        return (self.draw(step == 0) for step in range(self.steps))


class FixedBatches:
    """A batch sampler of batches that are known beforehand; Lightning cannot wrap a plain list of them."""

    def __init__(self, batches: list[list[Places]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Places]]:
        return iter(self.batches)


class _IndexedPool(Dataset[tuple[int, int, Task]]):
    """Hands out a task together with its places, from the pool as it is at that moment."""

    def __init__(self, pool: Callable[[], TaskPool]) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return len(self.pool())

    def __getitem__(self, places: Places) -> tuple[int, int, Task]:
        return *places, self.pool()[places[1]]


def _collate(rows: Sequence[tuple[int, int, Task]]) -> TaskBatch:
    positions, indices, tasks = zip(*rows, strict=True)
    return TaskBatch(list(indices), list(tasks), list(positions))
