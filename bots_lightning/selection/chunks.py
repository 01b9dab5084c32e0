"""The best of a pool of millions, a chunk at a time: what is held in the cache costs a nanosecond a task."""

# Shapes: N tasks in the pool, K groups, n tasks of a chunk.

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
CHUNK = 1 << 16


def chunks(num_tasks: int) -> Iterator[slice]:
    """Slices that cover the pool in order."""
    for start in range(0, num_tasks, CHUNK):
        yield slice(start, min(start + CHUNK, num_tasks))


@dataclass(frozen=True)
class Eligible:
    """Which tasks may be chosen, and for which slot of the batch.

    Attributes:
        blocked: positions of tasks that may not.
        group_codes: (N,) group of each task.
        slots: (K,) slot that each group's tasks are for; None if there is one slot, of all groups.
    """

    blocked: Indices
    group_codes: npt.NDArray[Any]
    slots: npt.NDArray[Any] | None = None

    def exclude(self, scores: npt.NDArray[Any], where: slice) -> npt.NDArray[Any]:
        """Sets the scores (n,) of a chunk's blocked tasks to infinity."""
        start = where.start or 0
        inside = self.blocked[(self.blocked >= start) & (self.blocked < start + len(scores))]
        scores[inside - start] = np.inf
        return scores

    def of(self, tasks: Indices) -> npt.NDArray[np.bool_]:
        """Whether each of some tasks may be chosen."""
        return ~np.isin(tasks, self.blocked)

    def of_slots(self, values: npt.NDArray[Any], where: slice | Indices) -> npt.NDArray[Any]:
        """(n,) the value of each task's slot; (1,) if there is one slot.

        Args:
            values: (S,).
            where: of the tasks.
        """
        return values if self.slots is None else values[self.slots].take(self.group_codes[where])

    def places(self, tasks: Indices, count: int) -> list[Indices]:
        """The places of some tasks, (n,), that are of each of so many slots; ascending."""
        if self.slots is None:
            return [np.arange(len(tasks))]
        slots = self.slots.take(self.group_codes[tasks])
        order = np.argsort(slots, kind="stable")  # of small integers: in linear time
        return np.split(order, np.cumsum(np.bincount(slots, minlength=count))[:-1])


def smallest(scores: npt.NDArray[Any], k: int) -> Indices:
    """(k,) positions of the k smallest scores, ascending, of equal ones the first; O(N) and not O(N log N)."""
    near = np.arange(len(scores))
    if k < len(scores):
        near = np.flatnonzero(scores <= np.partition(scores, k - 1)[k - 1])  # faster than argpartition
    return near[np.argsort(scores[near], kind="stable")[:k]]


def smallest_with_random_ties(scores: npt.NDArray[Any], k: int, rng: np.random.Generator) -> Indices:
    """(k,) positions of the k smallest scores, ascending; scores that agree to 12 digits are a tie."""
    shuffled = rng.permutation(len(scores))
    return shuffled[smallest(scores[shuffled].round(12), k)]


def smallest_of_pool(
    score: Callable[[slice], npt.NDArray[Any]], num_tasks: int, sizes: npt.NDArray[np.int64], eligible: Eligible
) -> list[Indices]:
    """The eligible tasks of smallest score for each slot, ascending, in one pass; fewer if there are not so many.

    Args:
        score: the scores of a chunk, (n,), computed when asked for.
        num_tasks: N.
        sizes: (S,) how many.
        eligible: which may be chosen, and for which slot.
    """
    best = [(np.empty(0, dtype=np.int64), np.empty(0))] * len(sizes)
    bounds = np.where(sizes > 0, np.inf, -np.inf)  # (S,) that a score must be below
    for where in chunks(num_tasks):
        scores = eligible.exclude(score(where), where)
        near = np.flatnonzero(scores < eligible.of_slots(bounds.astype(scores.dtype), where))
        if not len(near):
            continue
        for slot, places in enumerate(eligible.places(near + where.start, len(sizes))):
            if len(places):
                found = near[places]
                tasks = np.concatenate([best[slot][0], found + where.start])
                values = np.concatenate([best[slot][1], scores[found]])
                kept = smallest(values, sizes[slot])
                best[slot] = tasks[kept], values[kept]
                bounds[slot] = values[kept[-1]] if len(kept) == sizes[slot] else np.inf
    return [tasks for tasks, _ in best]
