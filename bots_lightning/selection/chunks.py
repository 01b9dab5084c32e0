"""The best of a pool of millions of tasks, in chunks that fit into the processor's cache: a nanosecond per task."""

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
    """Slices of at most `CHUNK` tasks that cover the pool in order."""
    for start in range(0, num_tasks, CHUNK):
        yield slice(start, min(start + CHUNK, num_tasks))


@dataclass(frozen=True)
class Eligible:
    """Which tasks may be chosen, and for which slot of the batch.

    Attributes:
        blocked: positions of tasks that may not be chosen.
        group_codes: (N,) group of each task.
        slots: (K,) slot of each group; None if all groups share one slot.
    """

    blocked: Indices
    group_codes: npt.NDArray[Any]
    slots: npt.NDArray[Any] | None = None

    def exclude(self, scores: npt.NDArray[Any], where: slice) -> npt.NDArray[Any]:
        """Sets the scores of a chunk's blocked tasks to infinity, in place.

        Args:
            scores: (n,) of the chunk.
            where: the chunk.

        Returns:
            The same array.
        """
        start = where.start or 0
        inside = self.blocked[(self.blocked >= start) & (self.blocked < start + len(scores))]
        scores[inside - start] = np.inf
        return scores

    def of(self, tasks: Indices) -> npt.NDArray[np.bool_]:
        """Whether each of these tasks may be chosen, as long as `tasks`."""
        return ~np.isin(tasks, self.blocked)

    def of_slots(self, values: npt.NDArray[Any], where: slice | Indices) -> npt.NDArray[Any]:
        """The value of each task's slot.

        Args:
            values: (S,) one per slot.
            where: positions of n tasks.

        Returns:
            (n,), or (1,) if there is one slot.
        """
        return values if self.slots is None else values[self.slots].take(self.group_codes[where])

    def places(self, tasks: Indices, count: int) -> list[Indices]:
        """Sorts tasks by slot.

        Args:
            tasks: (n,) positions in the pool.
            count: S.

        Returns:
            S arrays of indices into `tasks`, each ascending.
        """
        if self.slots is None:
            return [np.arange(len(tasks))]
        slots = self.slots.take(self.group_codes[tasks])
        order = np.argsort(slots, kind="stable")  # small integers are sorted in linear time
        return np.split(order, np.cumsum(np.bincount(slots, minlength=count))[:-1])


def smallest(scores: npt.NDArray[Any], k: int) -> Indices:
    """(k,) positions of the k smallest scores, ascending; the first of equal ones come first. O(N), not O(N log N)."""
    near = np.arange(len(scores))
    if k < len(scores):
        near = np.flatnonzero(scores <= np.partition(scores, k - 1)[k - 1])  # faster than argpartition
    return near[np.argsort(scores[near], kind="stable")[:k]]


def smallest_with_random_ties(scores: npt.NDArray[Any], k: int, rng: np.random.Generator) -> Indices:
    """(k,) positions of the k smallest scores, ascending, ties broken at random.

    Args:
        scores: (N,) scores; those that agree to 12 decimals are a tie.
        k: number of positions.
        rng: breaks ties.
    """
    shuffled = rng.permutation(len(scores))
    return shuffled[smallest(scores[shuffled].round(12), k)]


def smallest_of_pool(
    score: Callable[[slice], npt.NDArray[Any]], num_tasks: int, sizes: npt.NDArray[np.int64], eligible: Eligible
) -> list[Indices]:
    """The eligible tasks with the smallest scores of each slot, found in one scan of the pool.

    Args:
        score: computes the scores of a chunk, (n,).
        num_tasks: N.
        sizes: (S,) number of tasks to choose for each slot.
        eligible: which tasks may be chosen, and for which slot.

    Returns:
        S arrays of positions, by ascending score; shorter than asked for if a slot has too few eligible tasks.
    """
    best = [(np.empty(0, dtype=np.int64), np.empty(0))] * len(sizes)
    bounds = np.where(sizes > 0, np.inf, -np.inf)  # (S,) only scores below them can be among the best
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
