"""Implicit evidence of tasks that were never visited, as a function of their references alone."""

# Shapes: H remembered steps, M tasks.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.belief import FloatArray, State

# A step whose weight, in counts, has fallen below this no longer changes the sixteenth digit of any sum.
_FORGOTTEN = 1e-18


class PseudoCounts:
    """The implicit evidence of all steps, forgotten at the rate λ, in closed form.

        S(w, u) = Σ_t c_t clip(w + μ̃_t (u − w), 0, 1),   c_t = ρ G_t (1−λ)^(steps since t)

    For a task that was never visited, the update of BOTS (arXiv:2510.26374) adds S of its weak and strong reference
    w and u to α, and Σ c_t − S to β. Such a task therefore costs nothing until its posterior is needed. Steps are
    sorted by μ̃: those whose prediction is clipped are the first and the last ones, so that S is a difference of
    prefix sums, O(log H) per task.
    """

    def __init__(self) -> None:
        self.ability = np.empty(0)  # μ̃ in ascending order
        self.weight = np.empty(0)
        self._sum()

    def add(self, ability: float | None, count: float, forgetting: float) -> None:
        """Adds a step, after all earlier weights have decayed.

        Args:
            ability: μ̃ of the step; None if there is none yet, which adds nothing.
            count: ρ G, the weight of the step.
            forgetting: λ.
        """
        weight = self.weight * (1 - forgetting)
        kept = weight > _FORGOTTEN
        self.ability, self.weight = self.ability[kept], weight[kept]
        if ability is not None and count > 0:
            at = int(np.searchsorted(self.ability, ability))
            self.ability = np.insert(self.ability, at, ability)
            self.weight = np.insert(self.weight, at, count)
        self._sum()

    def _sum(self) -> None:
        """Computes prefix sums of c and of c·μ̃, each (H+1,)."""
        self._counts = np.concatenate([[0.0], np.cumsum(self.weight)])
        self._moments = np.concatenate([[0.0], np.cumsum(self.weight * self.ability)])

    @property
    def total(self) -> float:
        """Σ c_t, the sum of successes and failures."""
        return float(self._counts[-1])

    def successes(self, weak: FloatArray, strong: FloatArray) -> FloatArray:
        """S(w, u), shape (M,); NaN where a reference is NaN.

        Args:
            weak: (M,) w.
            strong: (M,) u.
        """
        slope = strong - weak
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            failing, solved = -weak / slope, (1 - weak) / slope  # the μ̃ at which p̃ is 0 and 1
        rising = slope > 0
        first = np.searchsorted(self.ability, np.where(rising, failing, solved))
        last = np.maximum(np.searchsorted(self.ability, np.where(rising, solved, failing)), first)
        between = weak * (self._counts[last] - self._counts[first]) + slope * (
            self._moments[last] - self._moments[first]
        )
        clipped_to_1 = np.where(rising, self.total - self._counts[last], self._counts[first])
        return np.where(slope == 0, weak * self.total, between + clipped_to_1)

    def state_dict(self) -> State:
        """Abilities and weights of the remembered steps."""
        return {"ability": self.ability.copy(), "weight": self.weight.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restores the remembered steps."""
        self.ability = np.array(state["ability"], dtype=np.float64)
        self.weight = np.array(state["weight"], dtype=np.float64)
        self._sum()
