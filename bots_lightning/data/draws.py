"""What was drawn: how many rollouts each task gets, and which of the tasks are this rank's."""

# Shapes: B tasks over all ranks, W ranks.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bots_lightning.allocation import Allocation
from bots_lightning.allocation.allocation import LEAST, Floats
from bots_lightning.data import ranks
from bots_lightning.data.workload import Workload, equal_shares
from bots_lightning.selection import TaskSelector


class DrawnTask(NamedTuple):
    """One task to be rolled out.

    Attributes:
        place: in what was drawn for all ranks, or in the pool that is evaluated.
        index: the task's position in the pool.
        count: how many rollouts it gets.
    """

    place: int
    index: int  # type: ignore[assignment] # hides a method of tuples, like the next
    count: int  # type: ignore[assignment]


def believed(selector: TaskSelector, indices: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """What a selector believes of tasks: (α, β), each (B,), of its forecast; 1 and 1 if it has no belief.

    Args:
        selector: that drew the tasks.
        indices: (B,) positions in the pool.
    """
    return selector.forecast(indices) or unknown(len(indices))


def unknown(tasks: int) -> tuple[Floats, Floats]:
    """(α, β) of tasks of which nothing is known: 1 and 1, each (tasks,)."""
    return np.ones(tasks), np.ones(tasks)


def allocated(
    allocation: Allocation, selector: TaskSelector, indices: npt.NDArray[np.int64], num_generations: int
) -> list[int]:
    """How many rollouts each task gets.

    Args:
        allocation: of the run.
        selector: that drew the tasks.
        indices: (B,) positions in the pool.
        num_generations: rollouts of each task on average.

    Returns:
        B counts.

    Raises:
        ValueError: there are not B counts, one is not a whole number or less than 2, or they exceed what there is.
    """
    beliefs = believed(selector, indices) if allocation.uses_belief else unknown(len(indices))
    counts = allocation.allocate(*beliefs, num_generations)
    least, most = min(LEAST, num_generations), len(indices) * num_generations
    whole = counts.shape == indices.shape and counts.dtype.kind in "iu"
    if not whole or (counts < least).any() or counts.sum() > most:
        raise ValueError(
            f"{type(allocation).__name__}.allocate gave {counts.tolist()} for {len(indices)} tasks; expected a whole "
            f"number of rollouts for each, at least {least}, and no more than {most} together."
        )
    return counts.tolist()


def own_share(drawn: list[int], counts: list[int], workload: Workload) -> list[DrawnTask]:
    """This rank's share of what was drawn: B / W tasks, which are expected to take about as many tokens as any other's.

    Args:
        drawn: B positions in the pool; B is a multiple of W.
        counts: B numbers of rollouts.
        workload: what one number of rollouts of each task is expected to take; not asked if W is 1.

    Returns:
        the tasks by ascending place.
    """
    tasks = [DrawnTask(place, *task) for place, task in enumerate(zip(drawn, counts, strict=True))]
    if ranks.world_size() == 1:
        return tasks
    expected = workload.expected(drawn) * (np.array(counts) / max(counts))
    return [tasks[place] for place in equal_shares(expected, ranks.world_size())[ranks.rank()]]
