"""Implicit evidence: pass rates of tasks that are not in a step, predicted from two reference models."""

# Shapes: N tasks in the pool, B tasks in the step.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.belief import ALL, FloatArray, State, TaskFeatures, Where
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.profiles import coarse_profiles
from bots_lightning.options import check_numbers

# The most distinct pairs of reference rates; if there are more, cells use rates rounded to 1/256 of their range.
MOST_PROFILES = 1 << 17


def relative_ability(pass_rates: FloatArray, weak: FloatArray, strong: FloatArray) -> float:
    """The policy's ability relative to two reference models: 0 is the weak one, 1 the strong one.

        μ = (mean pass rate − mean w) / (mean u − mean w)

    This is the interpolation of BOTS (arXiv:2510.26374), over one batch.

    Args:
        pass_rates: (B,) pass rates of the policy.
        weak: (B,) pass rates of the weaker reference on the same tasks.
        strong: (B,) pass rates of the stronger one.
    """
    return float((pass_rates.mean() - weak.mean()) / (strong.mean() - weak.mean()))


class ReferenceInterpolation:
    """Predicts every task's pass rate from two reference models, as BOTS does (arXiv:2510.26374).

        μ̃ ← γ μ̃ + (1−γ) μ  (the first batch sets μ̃ = μ),   p̃_k = clip(w_k + μ̃ (u_k − w_k), 0, 1)

    Departures from the published code, which fails in these cases: a task without both references is ignored and
    gets no prediction; a batch on which the references hardly differ does not change μ̃.

    Args:
        weak: name of the pool's column with the weaker reference's pass rates.
        strong: name of the column with the stronger one's.
        momentum: γ, in [0, 1).
        min_gap: smallest |mean u − mean w| of a batch from which μ is estimated; a gap below some hundredths is
            mostly noise of the references' own rollouts.

    Raises:
        ValueError: an option is out of range, or both columns are the same.
    """

    def __init__(self, weak: str, strong: str, momentum: float = 0.9, min_gap: float = 0.05) -> None:
        check_numbers(0, high=1, below=True, momentum=momentum)
        check_numbers(0, above=True, min_gap=min_gap)  # keeps μ finite
        if weak == strong:
            raise ValueError(f"weak and strong are the same column {weak!r}; expected two reference models.")
        self.weak, self.strong = weak, strong
        self.momentum = momentum
        self.min_gap = min_gap
        self.ability: float | None = None

    def setup(self, features: TaskFeatures) -> None:
        """Reads both reference columns and resets μ̃.

        Args:
            features: of the pool's tasks.

        Raises:
            ValueError: the pool lacks a column.
        """
        self.read(features)
        self.ability = None

    def read(self, features: TaskFeatures) -> None:
        """Reads both reference columns; call it again when the pool has grown.

        Raises:
            ValueError: the pool lacks a column.
        """
        self._weak, self._strong = features.reference(self.weak), features.reference(self.strong)
        self.profiles = coarse_profiles(features.num_tasks, [self._weak, self._strong], MOST_PROFILES)

    def references(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """(w, u) of all tasks, each (N,), or of the tasks in `where`; both are NaN where one is unknown."""
        weak, strong = self._weak[where], self._strong[where]
        unknown = np.isnan(weak + strong)
        return np.where(unknown, np.nan, weak), np.where(unknown, np.nan, strong)

    def observe(self, evidence: Evidence) -> None:
        """Updates μ̃ by the tasks of a step (merged evidence) that have both references."""
        weak, strong = self.references(evidence.indices)
        known = np.isfinite(weak)
        if not known.any():
            return
        weak, strong = weak[known], strong[known]
        if abs(strong.mean() - weak.mean()) < self.min_gap:
            return
        mu = relative_ability(evidence.successes[known] / evidence.counts[known], weak, strong)
        self.ability = mu if self.ability is None else self.momentum * self.ability + (1 - self.momentum) * mu

    def predict(self, where: Where = ALL) -> FloatArray:
        """Predicted pass rates p̃, (N,) or of the tasks in `where`; NaN where there is no prediction."""
        weak, strong = self.references(where)
        ability = np.nan if self.ability is None else self.ability
        return np.clip(weak + ability * (strong - weak), 0.0, 1.0)

    def state_dict(self) -> State:
        """μ̃ (NaN before the first batch)."""
        return {"ability": float("nan") if self.ability is None else self.ability}

    def load_state_dict(self, state: State) -> None:
        """Restores μ̃."""
        self.ability = None if np.isnan(state["ability"]) else float(state["ability"])
