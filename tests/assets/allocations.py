"""Allocations for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.allocation import Allocation


class InTurn(Allocation):
    """Gives tasks so many rollouts in turn, whatever they are.

    Args:
        counts: of the first task of a batch and those after it, over and over.
    """

    def __init__(self, counts: Sequence[Any] = (2, 3, 5, 16)) -> None:
        self.counts = counts

    def allocate(self, alpha: Any, beta: Any, num_generations: int) -> npt.NDArray[Any]:
        return np.resize(np.array(self.counts), len(alpha))
