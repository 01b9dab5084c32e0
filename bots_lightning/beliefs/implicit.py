"""Implicit evidence: what the tasks that were tried say about those that were not."""

# Shapes: N tasks in the pool, B tasks in the step.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.belief import FloatArray, State, TaskFeatures
from bots_lightning.beliefs.evidence import Evidence


def relative_ability(pass_rates: FloatArray, weak: FloatArray, strong: FloatArray) -> float:
    """Where the policy stands between two reference models: 0 is the weak one, 1 the strong one.

        μ = (mean pass rate − mean w) / (mean u − mean w)

    The interpolation of BOTS (arXiv:2510.26374), over one batch.

    Args:
        pass_rates: (B,) pass rates of the policy.
        weak: (B,) pass rates of the weaker reference on the same tasks.
        strong: (B,) pass rates of the stronger one.
    """
    return float((pass_rates.mean() - weak.mean()) / (strong.mean() - weak.mean()))


class ReferenceInterpolation:
    """Predicts every task's pass rate from two reference models, as BOTS does (arXiv:2510.26374).

        μ̃ ← γ μ̃ + (1−γ) μ  (the first batch enters raw),   p̃_k = clip(w_k + μ̃ (u_k − w_k), 0, 1)

    Departures from the published code, which these cases break: a task without both references takes no part and
    gets no prediction; a batch on which the references hardly differ leaves μ̃ as it was.

    Args:
        weak: name of the pool's column with the weaker reference's pass rates.
        strong: name of the column with the stronger one's.
        momentum: γ, in [0, 1).
        min_gap: the smallest |mean u − mean w| of a batch that still says something about μ; below some hundredths
            the gap is mostly noise of the references' own rollouts.
    """

    def __init__(self, weak: str, strong: str, momentum: float = 0.9, min_gap: float = 0.05) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}; expected a number in [0, 1).")
        if not min_gap > 0:
            raise ValueError(f"min_gap={min_gap}; expected a positive number: it keeps mu finite.")
        if weak == strong:
            raise ValueError(f"weak and strong are the same column {weak!r}; expected two reference models.")
        self.weak, self.strong = weak, strong
        self.momentum = momentum
        self.min_gap = min_gap
        self.ability: float | None = None

    def setup(self, features: TaskFeatures) -> None:
        """Reads both reference columns; forgets μ̃."""
        self._weak = features.reference(self.weak)
        self._strong = features.reference(self.strong)
        self._known = np.isfinite(self._weak) & np.isfinite(self._strong)
        self.ability = None

    def observe(self, evidence: Evidence) -> None:
        """Moves μ̃ by the tasks of a step (merged evidence) that have both references."""
        known = self._known[evidence.indices]
        at = evidence.indices[known]
        if len(at) == 0:
            return
        weak, strong = self._weak[at], self._strong[at]
        if abs(strong.mean() - weak.mean()) < self.min_gap:
            return
        mu = relative_ability(evidence.successes[known] / evidence.counts[known], weak, strong)
        self.ability = mu if self.ability is None else self.momentum * self.ability + (1 - self.momentum) * mu

    def predict(self) -> FloatArray:
        """p̃: (N,) predicted pass rates, NaN where there is no prediction."""
        if self.ability is None:
            return np.full(len(self._weak), np.nan)
        return np.clip(self._weak + self.ability * (self._strong - self._weak), 0.0, 1.0)

    def state_dict(self) -> State:
        """μ̃ (NaN before the first batch)."""
        return {"ability": float("nan") if self.ability is None else self.ability}

    def load_state_dict(self, state: State) -> None:
        """Takes over μ̃."""
        self.ability = None if np.isnan(state["ability"]) else float(state["ability"])
