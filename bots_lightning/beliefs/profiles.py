"""Profiles: tasks with the same features share one row of everything that is computed from these."""

# Shapes: N tasks in the pool, P profiles, C columns.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Profiles:
    """A partition of the pool by the values of some columns.

    Attributes:
        labels: (N,) profile of each task, in the smallest unsigned type that can hold P.
        members: (P,) one task of each profile.
        exact: True if the tasks of a profile agree in all columns; False if some agree only after rounding.
    """

    labels: npt.NDArray[Any]
    members: npt.NDArray[np.int64]
    exact: bool = True

    def __len__(self) -> int:
        return len(self.members)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of tasks of each profile, (P,)."""
        return np.bincount(self.labels, minlength=len(self))


def profiles_of(num_tasks: int, columns: Sequence[npt.NDArray[Any]]) -> Profiles:
    """Groups tasks that agree in all columns; NaN equals NaN.

    Args:
        num_tasks: N.
        columns: C arrays (N,) of numbers or strings.
    """
    code = np.zeros(num_tasks, dtype=np.int64)
    for column in columns:
        values, inverse = np.unique(column, return_inverse=True)
        _, code = np.unique(code * len(values) + inverse, return_inverse=True)
    count = int(code.max(initial=0)) + 1
    members = np.full(count, -1)
    members[code[::-1]] = np.arange(num_tasks)[::-1]  # the first task of each profile
    return Profiles(code.astype(np.min_scalar_type(count)), members)


def coarse_profiles(num_tasks: int, columns: Sequence[npt.NDArray[Any]], most: int) -> Profiles:
    """Groups tasks into a limited number of profiles: floats are rounded to the finest grid that is coarse enough.

    Rates of k out of n rollouts take few values and stay exact; integers and strings are labels and are not rounded.

    Args:
        num_tasks: N.
        columns: C arrays (N,) of floats, integers or strings.
        most: the limit; if even the coarsest grid exceeds it, the exact profiles are returned.
    """
    exact = profiles_of(num_tasks, columns)
    if len(exact) <= most:
        return exact
    for steps in (256, 128, 64, 32, 16):
        coarse = profiles_of(num_tasks, [_rounded(column, steps) for column in columns])
        if len(coarse) <= most:
            return Profiles(coarse.labels, coarse.members, exact=False)
    return exact


def _rounded(column: npt.NDArray[Any], steps: int) -> npt.NDArray[Any]:
    """Rounds floats to a grid with this many steps between the smallest and the largest."""
    if column.dtype.kind != "f" or not np.isfinite(column).any():
        return column
    low, high = np.nanmin(column), np.nanmax(column)
    grid: npt.NDArray[Any] = np.rint((column - low) / max(high - low, 1e-300) * steps)
    return grid
