"""Implicit evidence: what the tasks that were tried say about those that were not."""

# Shapes: N tasks in the pool, B tasks in the step.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.belief import ALL, FloatArray, State, TaskFeatures, Where
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.profiles import coarse_profiles

# So many pairs of reference rates are told apart; further ones are rounded, to 1/256 of their range, where only a cell
# is asked for.
MOST_PROFILES = 1 << 17


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
        self.read(features)
        self.ability = None

    def read(self, features: TaskFeatures) -> None:
        """Reads both reference columns, also of a pool that has grown."""
        self._weak, self._strong = features.reference(self.weak), features.reference(self.strong)
        self.profiles = coarse_profiles(features.num_tasks, [self._weak, self._strong], MOST_PROFILES)

    def references(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """(w, u) of all tasks, each (N,), or of some; both NaN where one is unknown."""
        weak, strong = self._weak[where], self._strong[where]
        unknown = np.isnan(weak + strong)
        return np.where(unknown, np.nan, weak), np.where(unknown, np.nan, strong)

    def observe(self, evidence: Evidence) -> None:
        """Moves μ̃ by the tasks of a step (merged evidence) that have both references."""
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
        """p̃: (N,) predicted pass rates, or those of some tasks, NaN where there is no prediction."""
        weak, strong = self.references(where)
        ability = np.nan if self.ability is None else self.ability
        return np.clip(weak + ability * (strong - weak), 0.0, 1.0)

    def state_dict(self) -> State:
        """μ̃ (NaN before the first batch)."""
        return {"ability": float("nan") if self.ability is None else self.ability}

    def load_state_dict(self, state: State) -> None:
        """Takes over μ̃."""
        self.ability = None if np.isnan(state["ability"]) else float(state["ability"])
