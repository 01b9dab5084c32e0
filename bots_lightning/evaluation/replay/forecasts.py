"""Forecasts of a belief beside what was then recorded."""

# Shapes: M forecasts.

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bots_lightning.beliefs import Belief
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.evaluation.replay.trajectories import IntArray
from bots_lightning.evaluation.scores.belief_quality import belief_scores

Scores = dict[str, float | None]
BELIEF_SCORES = ("rmse", "log_predictive", "spearman", "coverage_90")


@dataclass
class Forecasts:
    """The forecasts of a belief, taken before it has seen the counts; an entry per scored step.

    Attributes:
        means: (M,) predicted pass rates.
        concentrations: (M,) α and (M,) β, of beliefs that have them.
        successes: (M,) recorded afterwards.
        rollouts: (M,) recorded afterwards.
    """

    means: list[FloatArray] = field(default_factory=list)
    concentrations: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)
    successes: list[IntArray] = field(default_factory=list)
    rollouts: list[IntArray] = field(default_factory=list)

    def add(self, belief: Belief, indices: IntArray, successes: IntArray, rollouts: IntArray) -> None:
        """Adds a belief's forecasts for some tasks.

        Args:
            belief: of the selector.
            indices: (M,) tasks.
            successes: (M,), which the belief has not seen yet.
            rollouts: (M,).
        """
        self.means.append(belief.mean()[indices])
        if (concentrations := belief.concentrations()) is not None:
            self.concentrations.append((concentrations[0][indices], concentrations[1][indices]))
        self.successes.append(successes)
        self.rollouts.append(rollouts)

    def scores(self) -> Scores:
        """`belief_scores` over all steps; all None if there was no belief."""
        if not self.means:
            return dict.fromkeys(BELIEF_SCORES)
        pairs = self.concentrations
        joined = (np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])) if pairs else None
        return belief_scores(
            np.concatenate(self.means), np.concatenate(self.successes), np.concatenate(self.rollouts), joined
        )
