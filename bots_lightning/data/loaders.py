"""Loaders of tasks: training batches are drawn one at a time, evaluation and prediction read a pool in order."""

# Shapes: N tasks in the pool, W ranks.

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from torch.utils.data import DataLoader, Dataset

from bots_lightning.data import ranks
from bots_lightning.data.batches import TaskBatch
from bots_lightning.data.draws import DrawnTask
from bots_lightning.tasks import TaskPool


class Batches(Protocol):
    """A batch sampler, in torch's terms."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[DrawnTask]]: ...


class DrawnBatches:
    """A batch sampler whose batches are drawn one at a time, when iterated and never before.

    Args:
        draw: the next batch; True asks for the first of an epoch.
        steps: how many.
    """

    def __init__(self, draw: Callable[[bool], list[DrawnTask]], steps: int) -> None:
        self.draw, self.steps = draw, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[DrawnTask]]:
        return (self.draw(step == 0) for step in range(self.steps))


class FixedBatches:
    """A batch sampler of batches that are known beforehand; Lightning cannot wrap a plain list of them."""

    def __init__(self, batches: list[list[DrawnTask]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[DrawnTask]]:
        return iter(self.batches)


def task_loader(pool: Callable[[], TaskPool], batches: Batches) -> DataLoader[DrawnTask]:
    """A sized loader in this process, which asks for one batch at a time: no draw runs ahead.

    Args:
        pool: gives the pool as it is when a batch is served; it may grow.
        batches: what to serve.

    Returns:
        a loader of `TaskBatch`.
    """

    def collate(drawn: Sequence[DrawnTask]) -> TaskBatch:
        return TaskBatch.of(drawn, pool())

    return DataLoader(_Drawn(pool), batch_sampler=batches, collate_fn=collate, num_workers=0)


def evaluation_loader(pool: TaskPool, batch_size: int, count: int) -> DataLoader[DrawnTask]:
    """This rank's share of a pool: every W-th task, from first to last.

    Args:
        pool: N tasks.
        batch_size: the most tasks of a batch.
        count: rollouts of each task.
    """
    mine = range(ranks.rank(), len(pool), ranks.world_size())
    return _in_order(pool, [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)], count)


def predict_loader(
    pool: TaskPool, batch_size: int, count: int, measured: Collection[str]
) -> DataLoader[DrawnTask] | list[DataLoader[DrawnTask]]:
    """This rank's share of a pool, from first to last task, except for those that are measured.

    Batches are blocks of the pool, whatever the number of ranks and wherever a killed run goes on, so that even the
    rounding in a batch repeats itself. A rank for which there is none repeats the last.

    Args:
        pool: N tasks.
        batch_size: tasks of a block.
        count: rollouts of each task.
        measured: ids of tasks to leave out.

    Returns:
        a loader, or none (an empty list) if no task is left.
    """
    starts = range(0, len(pool), batch_size)
    blocks = [range(start, min(start + batch_size, len(pool))) for start in starts]
    left = [[index for index in block if pool.ids[index] not in measured] for block in blocks]
    left = [block for block in left if block]
    mine = left[ranks.rank() :: ranks.world_size()] or left[-1:]
    return _in_order(pool, mine, count) if mine else []


def _in_order(pool: TaskPool, blocks: Sequence[Sequence[int]], count: int) -> DataLoader[DrawnTask]:
    """Batches of the given positions in the pool, which are also their places."""
    batches = [[DrawnTask(index, index, count) for index in block] for block in blocks]
    return task_loader(lambda: pool, FixedBatches(batches))


class _Drawn(Dataset[DrawnTask]):
    """Hands on what the batch sampler names; the batch looks its tasks up together."""

    def __init__(self, pool: Callable[[], TaskPool]) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return len(self.pool())

    def __getitem__(self, drawn: DrawnTask) -> DrawnTask:
        return drawn
