"""Which rank rolls out which tasks: shares of about as many tokens, since all wait for the longest."""

# Shapes: N tasks in the pool, B tasks of a step, W ranks.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MEMORY = 256  # tasks over which a group's mean is kept


class Workload:
    """How many tokens the completions of each task are expected to have, for one number of completions.

    As many as the last time; of a task that was not rolled out before, the mean of its group.

    Args:
        num_tasks: N.
        groups: (N,) the group of each task; empty if there are none.
    """

    def __init__(self, num_tasks: int, groups: npt.NDArray[np.str_]) -> None:
        self.groups = groups
        self.tokens = np.full(num_tasks, np.nan, dtype=np.float32)
        self._means: dict[str, float] = {}
        self._seen: dict[str, int] = {}

    def add_tasks(self, num_tasks: int, groups: npt.NDArray[np.str_]) -> None:
        """Takes in a pool that has grown behind its old tasks.

        Args:
            num_tasks: N, of the whole pool.
            groups: (N,) of the whole pool.
        """
        new = np.full(num_tasks - len(self.tokens), np.nan, dtype=np.float32)
        self.groups, self.tokens = groups, np.concatenate([self.tokens, new])

    def observe(self, tokens: Mapping[int, float]) -> None:
        """Takes in how many tokens some tasks took.

        Args:
            tokens: by position in the pool, for as many completions of each.
        """
        for index, count in tokens.items():
            self.tokens[index] = count
            group = self._group(index)
            self._seen[group] = min(self._seen.get(group, 0) + 1, MEMORY)
            mean = self._means.get(group, 0.0)
            self._means[group] = mean + (count - mean) / self._seen[group]

    def expected(self, indices: Sequence[int]) -> npt.NDArray[np.float64]:
        """The tokens that tasks are expected to take.

        Args:
            indices: B positions in the pool.

        Returns:
            (B,) float, all 1 if nothing is known.
        """
        overall = float(np.mean(list(self._means.values()))) if self._means else 1.0
        own = self.tokens[list(indices)].astype(np.float64)
        others = np.array([self._means.get(self._group(index), overall) for index in indices])
        return np.where(np.isnan(own), others, own)

    def _group(self, index: int) -> str:
        return str(self.groups[index]) if len(self.groups) else ""

    def state_dict(self) -> dict[str, Any]:
        """The tokens of all tasks and the means of their groups, as arrays, numbers and strings."""
        return {"tokens": self.tokens.copy(), "means": dict(self._means), "seen": dict(self._seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state."""
        self.tokens = np.array(state["tokens"], dtype=np.float32)
        self._means, self._seen = dict(state["means"]), dict(state["seen"])


def equal_shares(expected: npt.NDArray[np.float64], ranks: int) -> list[list[int]]:
    """Divides B tasks over ranks: the same number for each, with sums of tokens about equal.

    The longest go first, each to the rank that has least and still has room; tasks that are alike go round the ranks.

    Args:
        expected: (B,) tokens of each task; B is a multiple of `ranks`.
        ranks: W.

    Returns:
        the positions of each rank's tasks, ascending.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    sums, room = np.zeros(ranks), np.full(ranks, len(expected) // ranks)
    for position in np.argsort(-expected, kind="stable").tolist():
        rank = int(np.where(room > 0, sums, np.inf).argmin())
        shares[rank].append(position)
        sums[rank] += expected[position]
        room[rank] -= 1
    return [sorted(share) for share in shares]
