"""A band of pass rates: uniform selection among tasks that are neither too easy nor too hard."""

# Shapes: N tasks in the pool, n tasks of a question.

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.options import check_numbers
from bots_lightning.selection.filtered import FilteredSelector


class PassRateBandSelector(FilteredSelector):
    """Draws in shuffled epochs the tasks whose pass rate lies in a band, or is unknown.

    A reference model's pass rate decides before the first visit, and the visits' own pass rates from then on: a task
    that a visit shows to be outside of the band is left out. Once fewer tasks than a batch are left, all that the
    reference lets through return. A single visit of few rollouts errs: of 8 at p = 0.2, none succeeds once in six.

    Args:
        reference: name of the pool's column of pass rates; None takes them all to be unknown before the first visit.
        min_pass_rate: lower end of the band, which belongs to it.
        max_pass_rate: upper end of the band, which belongs to it.
        measured: whether visits count; False keeps to the reference, a filter fixed before the run.

    Raises:
        ValueError: an end is out of range, or there is nothing to filter by.
    """

    def __init__(
        self,
        reference: str | None = None,
        min_pass_rate: float = 0.2,
        max_pass_rate: float = 0.8,
        measured: bool = True,
    ) -> None:
        check_numbers(0, high=1, min_pass_rate=min_pass_rate)
        check_numbers(min_pass_rate, high=1, max_pass_rate=max_pass_rate)
        if reference is None and not measured:
            raise ValueError("reference=None and measured=False; nothing to filter by. Name a column, or measure.")
        self.reference = reference
        self.min_pass_rate = min_pass_rate
        self.max_pass_rate = max_pass_rate
        self.measured = measured

    def rates_before(self, features: TaskFeatures) -> FloatArray:
        """Pass rates of the reference model, (N,).

        Raises:
            ValueError: the pool has no column `reference`.
        """
        return super().rates_before(features) if self.reference is None else features.reference(self.reference)

    def passes(self, rates: FloatArray) -> npt.NDArray[np.bool_]:
        """Whether pass rates (n,) lie in the band or are unknown, (n,)."""
        return ~((rates < self.min_pass_rate) | (rates > self.max_pass_rate))
