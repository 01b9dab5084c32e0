"""Declared ranges of rewards and scores."""

# Shapes: R rows.

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bots_lightning.tasks import Task

SLACK = 1e-6  # of the width, for sums that miss an end by rounding


class ScoreRange:
    """The smallest and the largest value that something can have.

    Args:
        option: that declares it, for error messages.
        bounds: low and high.
        what: has that range, for error messages.

    Raises:
        ValueError: the bounds are not finite, or low is not below high.
    """

    def __init__(self, option: str, bounds: tuple[float, float], what: str) -> None:
        low, high = bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"{option}={tuple(bounds)}; expected two finite numbers, low < high.")
        self.option, self.low, self.high, self.what = option, float(low), float(high), what

    def fraction(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Values mapped from [low, high] to [0, 1], of the same shape; NaN stays."""
        return np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)

    def check(self, values: npt.NDArray[np.float64], tasks: Sequence[Task], name: str) -> None:
        """Refuses values outside.

        Args:
            values: (R,), NaN where there is none.
            tasks: R of them, the task of each row.
            name: of the values, for the message.

        Raises:
            ValueError: a value lies outside; names the task of the first.
        """
        slack = SLACK * (self.high - self.low)
        outside = np.flatnonzero((values < self.low - slack) | (values > self.high + slack))
        if len(outside):
            row = int(outside[0])
            raise ValueError(
                f"task {tasks[row].id!r} got {name} {values[row]:g}, outside "
                f"{self.option}=({self.low:g}, {self.high:g}). Declare the range that {self.what} can take."
            )
