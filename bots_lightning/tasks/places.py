"""Where the tasks of a pool come from, for error messages."""

# Shapes: n tasks of a part of a pool.

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

# Describes where a row comes from: row -> "tasks.jsonl, line 7".
Place = Callable[[int], str]


def chosen_places(place: Place, rows: npt.NDArray[np.int64]) -> Place:
    """Places of a selection of tasks.

    Args:
        place: of the whole pool.
        rows: (n,) rows of the pool that were selected.
    """
    kept = rows.astype(np.min_scalar_type(int(rows.max(initial=0))))  # a pool may have millions
    return lambda row: place(int(kept[row]))


def joined_places(counts: Sequence[int], places: Sequence[Place]) -> Place:
    """Places of several pools, one pool after the other.

    Args:
        counts: number of tasks of each pool.
        places: of each pool.
    """
    ends = list(accumulate(counts))

    def place(row: int) -> str:
        at = bisect_right(ends, row)
        return places[at](row - (ends[at - 1] if at else 0))

    return place
