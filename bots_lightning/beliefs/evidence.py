"""What a step has shown about the tasks that were tried."""

# Shapes: B tasks in the step, n_b rollouts of task b, R = Σ n_b.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_SUMS = ("successes", "counts", "squares", "interior")
_COLUMNS = ("indices", *_SUMS, "ages")
SLACK = 1e-6  # of rounding
RANGE = "Declare the reward's range so that rewards map to [0, 1]."


@dataclass(frozen=True)
class Evidence:
    """Success counts of the tasks that were rolled out in one step.

    Squares and interior tell binary rewards from others; left out, rewards are taken to be 0 or 1.

    Attributes:
        indices: (B,) int, positions of the tasks in the pool. A task may appear more than once.
        successes: (B,) float, sum of the task's rewards after mapping each to [0, 1].
        counts: (B,) float, how many rewards that sum covers: n_b, rollouts without a reward left out.
        squares: (B,) float, sum of the squares of those rewards; `successes` if they are 0 or 1.
        interior: (B,) float, how many of them lie strictly between 0 and 1.
        ages: (B,) float, how many updates the policy has seen since it sampled them; 0 if left out. Beliefs that
            forget treat old evidence as if it had come in time.

    Raises:
        ValueError: lengths differ, an index or age is negative, or a sum is none of rewards in [0, 1].
    """

    indices: npt.NDArray[np.int64]
    successes: Floats
    counts: Floats
    squares: Floats = None  # type: ignore[assignment] # filled in, as is the next
    interior: Floats = None  # type: ignore[assignment]
    ages: Floats = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if len(self.indices) and np.asarray(self.indices).dtype.kind not in "iu":
            raise ValueError(f"indices have dtype {np.asarray(self.indices).dtype}; expected integers.")
        object.__setattr__(self, "indices", np.asarray(self.indices, dtype=np.int64))
        for name in ("successes", "counts"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        shapes = self.indices.shape, self.successes.shape, self.counts.shape
        if len(set(shapes)) != 1 or self.indices.ndim != 1:
            raise ValueError(f"indices, successes and counts have shapes {shapes}; expected three times (B,).")
        if (self.indices < 0).any():
            raise ValueError(f"task index {self.indices.min()} is negative; expected positions in the pool.")
        self._check(
            (self.successes >= 0) & (self.successes <= self.counts) & np.isfinite(self.counts),
            "successes",
            "0 <= successes <= counts",
        )
        self._complete()

    def _complete(self) -> None:
        """Fills in what binary rewards of the present policy need not say, and checks what others do."""
        zeros = np.zeros_like(self.counts)
        for name, default in (("squares", self.successes), ("interior", zeros), ("ages", zeros)):
            given = getattr(self, name)
            values = default.copy() if given is None else np.asarray(given, dtype=np.float64)
            if values.shape != self.indices.shape:
                raise ValueError(f"{name} has shape {values.shape}; expected {self.indices.shape}, one per task.")
            object.__setattr__(self, name, values)
        slack = SLACK * np.maximum(self.counts, 1)
        least = self.successes**2 / np.maximum(self.counts, 1e-300)
        sound = (self.squares >= least - slack) & (self.squares <= self.successes + slack)
        self._check(sound, "squares", "successes²/counts <= squares <= successes")
        self._check((self.interior >= 0) & (self.interior <= self.counts), "interior", "0 <= interior <= counts")
        self._check((self.ages >= 0) & np.isfinite(self.ages), "ages", "a finite number of updates >= 0")

    def _check(self, sound: npt.NDArray[np.bool_], name: str, expected: str) -> None:
        if not sound.all():
            at = int(np.flatnonzero(~sound)[0])
            also = "" if name == "successes" else f", and {self.successes[at]} successes"
            remedy = "Give none, or how many the policy has seen since." if name == "ages" else RANGE
            raise ValueError(
                f"task index {self.indices[at]} has {getattr(self, name)[at]} {name} in {self.counts[at]} rollouts"
                f"{also}; expected {expected}. {remedy}"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def merged(self) -> Evidence:
        """One row per task, in ascending order of index, tasks without rollouts left out.

        Rows of the same task are added up, and are as old as the oldest. The result does not depend on the order of
        the rows, to the bit.
        """
        order = np.argsort(self.indices, kind="stable")
        if (self.counts > 0).all() and (np.diff(self.indices[order]) > 0).all():
            return self._rows(order)
        order = np.lexsort((self.interior, self.squares, self.counts, self.successes, self.indices))
        order = order[self.counts[order] > 0]
        indices, starts = np.unique(self.indices[order], return_index=True)
        if len(indices) == 0:
            return Evidence(indices, np.empty(0), np.empty(0))
        sums = {name: np.add.reduceat(getattr(self, name)[order], starts) for name in _SUMS}
        return Evidence(indices, **sums, ages=np.maximum.reduceat(self.ages[order], starts))

    def weighted(self, weights: Floats) -> Evidence:
        """Every sum times its row's weight in [0, 1], (B,): evidence of the present policy that says as much."""
        return Evidence(self.indices, *(getattr(self, name) * weights for name in _SUMS))

    def _rows(self, order: npt.NDArray[np.int64]) -> Evidence:
        """Its rows in another order, without checking them again."""
        rows = object.__new__(Evidence)
        for name in _COLUMNS:
            object.__setattr__(rows, name, getattr(self, name)[order])
        return rows

    @staticmethod
    def concatenate(parts: Sequence[Evidence]) -> Evidence:
        """The rows of all parts, e.g. of all ranks."""
        return Evidence(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))

    @staticmethod
    def from_rewards(
        indices: npt.NDArray[np.int64], rewards: Floats, counts: npt.ArrayLike, age: float = 0.0
    ) -> Evidence:
        """Counts the rewards of a step.

        Args:
            indices: (B,) positions in the pool.
            rewards: (R,) float in [0, 1], NaN where a rollout has none; those of a task follow each other.
            counts: (B,) int, rollouts of each task, R in all.
            age: how many updates the policy has seen since it sampled them.

        Returns:
            B rows; their counts leave rollouts without a reward out.

        Raises:
            ValueError: a reward lies outside [0, 1], rounding aside, or lengths differ.
        """
        table = _by_task(np.asarray(rewards, dtype=np.float64), np.asarray(counts), len(indices))
        valid = ~np.isnan(table)
        outside = np.argwhere(valid & ((table < -SLACK) | (table > 1 + SLACK)))
        if len(outside):
            task, rollout = outside[0]
            raise ValueError(
                f"task index {indices[task]} has the reward {table[task, rollout]:g}; expected one in [0, 1]. {RANGE}"
            )
        known = np.where(valid, np.clip(table, 0.0, 1.0), 0.0)
        inside = valid & (table > SLACK) & (table < 1 - SLACK)
        ages = np.full(len(indices), age)
        return Evidence(indices, known.sum(1), valid.sum(1), (known**2).sum(1), inside.sum(1), ages)


def _by_task(rewards: Floats, counts: npt.NDArray[np.int64], tasks: int) -> Floats:
    """The rewards of each task side by side: (B, max n_b), filled up with NaN on the right; equal n_b are a reshape."""
    if counts.shape != (tasks,) or (counts < 0).any() or rewards.shape != (counts.sum(),):
        raise ValueError(
            f"rewards and counts have shapes {rewards.shape} and {counts.shape} for {tasks} tasks; expected (R,) and "
            f"({tasks},), where the counts are at least 0 and add up to R, not {counts.sum()}."
        )
    table = np.full((tasks, int(counts.max(initial=0))), np.nan)
    table[np.arange(table.shape[1]) < counts[:, None]] = rewards
    return table
