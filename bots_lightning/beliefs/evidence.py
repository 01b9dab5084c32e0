"""What a step has shown about the tasks that were tried."""

# Shapes: B tasks in the step, G rollouts per task.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Evidence:
    """Success counts of the tasks that were rolled out in one step.

    Attributes:
        indices: (B,) int, positions of the tasks in the pool. A task may appear more than once.
        successes: (B,) float, sum of the task's rewards after mapping each to [0, 1].
        counts: (B,) float, how many rewards that sum covers (the real G of each task).

    Raises:
        ValueError: lengths differ, an index is negative, or successes lie outside [0, counts].
    """

    indices: npt.NDArray[np.int64]
    successes: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.indices) and np.asarray(self.indices).dtype.kind not in "iu":
            raise ValueError(f"indices have dtype {np.asarray(self.indices).dtype}; expected integers.")
        object.__setattr__(self, "indices", np.asarray(self.indices, dtype=np.int64))
        object.__setattr__(self, "successes", np.asarray(self.successes, dtype=np.float64))
        object.__setattr__(self, "counts", np.asarray(self.counts, dtype=np.float64))
        shapes = self.indices.shape, self.successes.shape, self.counts.shape
        if len(set(shapes)) != 1 or self.indices.ndim != 1:
            raise ValueError(f"indices, successes and counts have shapes {shapes}; expected three times (B,).")
        if (self.indices < 0).any():
            raise ValueError(f"task index {self.indices.min()} is negative; expected positions in the pool.")
        bad = ~((self.successes >= 0) & (self.successes <= self.counts) & np.isfinite(self.counts))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"task index {self.indices[at]} has {self.successes[at]} successes in {self.counts[at]} rollouts; "
                "expected 0 <= successes <= counts. Declare the reward's range so that rewards map to [0, 1]."
            )

    def __len__(self) -> int:
        return len(self.indices)

    def merged(self) -> Evidence:
        """One row per task, in ascending order of index, tasks without rollouts left out.

        Rows of the same task are added up. The result does not depend on the order of the rows, to the bit.
        """
        order = np.lexsort((self.counts, self.successes, self.indices))
        order = order[self.counts[order] > 0]
        indices, starts = np.unique(self.indices[order], return_index=True)
        if len(indices) == 0:
            return Evidence(indices, np.empty(0), np.empty(0))
        successes = np.add.reduceat(self.successes[order], starts)
        return Evidence(indices, successes, np.add.reduceat(self.counts[order], starts))

    @staticmethod
    def concatenate(parts: Sequence[Evidence]) -> Evidence:
        """The rows of all parts, e.g. of all ranks."""
        return Evidence(
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.successes for part in parts]),
            np.concatenate([part.counts for part in parts]),
        )
