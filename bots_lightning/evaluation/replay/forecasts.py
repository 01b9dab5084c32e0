"""Forecasts of a selector beside what was then recorded."""

# Shapes: M forecasts.

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bots_lightning.beliefs import Belief
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.evaluation.replay.trajectories import IntArray
from bots_lightning.evaluation.scores.belief_quality import belief_scores
from bots_lightning.selection import TaskSelector

Scores = dict[str, float | None]
BELIEF_SCORES = ("rmse", "log_predictive", "spearman", "coverage_90")


@dataclass
class Forecasts:
    """The forecasts of a selector, taken before it has seen the counts; an entry per scored step.

    Attributes:
        means: (M,) predicted pass rates.
        concentrations: (M,) α and (M,) β, of selectors that have them.
        successes: (M,) recorded afterwards.
        rollouts: (M,) recorded afterwards.
    """

    means: list[FloatArray] = field(default_factory=list)
    concentrations: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)
    successes: list[IntArray] = field(default_factory=list)
    rollouts: list[IntArray] = field(default_factory=list)

    def add(self, selector: TaskSelector, indices: IntArray, successes: IntArray, rollouts: IntArray) -> None:
        """Adds the forecasts for some tasks; nothing if the selector makes none.

        Args:
            selector: with a belief, whose means count, or with forecasts of its own.
            indices: (M,) tasks.
            successes: (M,), which the selector has not seen yet.
            rollouts: (M,).
        """
        belief, concentrations = getattr(selector, "belief", None), selector.forecast(indices)
        if isinstance(belief, Belief):
            self.means.append(belief.mean()[indices])
        elif concentrations is not None:
            self.means.append(concentrations[0] / (concentrations[0] + concentrations[1]))
        else:
            return
        if concentrations is not None:
            self.concentrations.append(concentrations)
        self.successes.append(successes)
        self.rollouts.append(rollouts)

    def scores(self) -> Scores:
        """`belief_scores` over all steps; all None if there were no forecasts."""
        if not self.means:
            return dict.fromkeys(BELIEF_SCORES)
        pairs = self.concentrations
        joined = (np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])) if pairs else None
        return belief_scores(
            np.concatenate(self.means), np.concatenate(self.successes), np.concatenate(self.rollouts), joined
        )
