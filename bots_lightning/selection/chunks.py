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
    """Which tasks may be chosen.

    Attributes:
        blocked: positions of tasks that may not.
        group_codes: (N,) group of each task.
        groups: (K,) bool, groups that may; None for all.
    """

    blocked: Indices
    group_codes: npt.NDArray[Any]
    groups: npt.NDArray[np.bool_] | None = None

    def exclude(self, scores: npt.NDArray[Any], where: slice) -> npt.NDArray[Any]:
        """Sets the scores (n,) of all other tasks of a chunk to infinity."""
        start = where.start or 0
        inside = self.blocked[(self.blocked >= start) & (self.blocked < start + len(scores))]
        scores[inside - start] = np.inf
        if self.groups is not None:
            scores[~self.groups[self.group_codes[where]]] = np.inf
        return scores

    def of(self, tasks: Indices) -> npt.NDArray[np.bool_]:
        """Whether each of some tasks may be chosen."""
        allowed = ~np.isin(tasks, self.blocked)
        return allowed if self.groups is None else allowed & self.groups[self.group_codes[tasks]]


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


def smallest_of_pool(score: Callable[[slice], npt.NDArray[Any]], num_tasks: int, k: int, eligible: Eligible) -> Indices:
    """(k,) eligible tasks of smallest score, ascending; fewer if there are not so many.

    Args:
        score: the scores of a chunk, (n,), computed when asked for.
        num_tasks: N.
        k: how many.
        eligible: which may be chosen.
    """
    best, best_scores = np.empty(0, dtype=np.int64), np.empty(0)
    for where in chunks(num_tasks):
        scores = eligible.exclude(score(where), where)
        bound = best_scores[-1] if len(best) == k else np.inf
        near = np.flatnonzero(scores < bound)
        if len(near):
            tasks, values = np.concatenate([best, near + where.start]), np.concatenate([best_scores, scores[near]])
            kept = smallest(values, k)
            best, best_scores = tasks[kept], values[kept]
    return best
