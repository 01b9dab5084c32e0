"""No positive resampling: tasks that are solved do not return."""

# Shapes: n tasks of a question.

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.options import check_numbers
from bots_lightning.selection.filtered import FilteredSelector


class NoPositiveResamplingSelector(FilteredSelector):
    """Draws in shuffled epochs the tasks whose pass rate has not reached a threshold at any visit (arXiv:2510.13786).

    Once fewer tasks than a batch are left, all return.

    Args:
        threshold: the pass rate of a visit from which on a task does not return.

    Raises:
        ValueError: the threshold is out of range.
    """

    def __init__(self, threshold: float = 0.9) -> None:
        check_numbers(0, above=True, high=1, threshold=threshold)
        self.threshold = threshold

    def passes(self, rates: FloatArray) -> npt.NDArray[np.bool_]:
        """Whether pass rates (n,) are below the threshold or unknown, (n,)."""
        return ~(rates >= self.threshold)
