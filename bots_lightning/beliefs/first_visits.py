"""A regression that predicts tasks before their first visit."""

# Shapes: B tasks, F regressors of the logit, E regressors of its variance.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.beliefs.design import Design


class FirstVisitRegression:
    """Predicts the logit of an unvisited task from its regressors: mean x·w, variance exp(z·u).

    Both w and u are learned online, each by one step per batch of first visits: the gradient of the log predictive
    over the precision gathered so far.

    Args:
        design: gives the priors of w and u.

    Attributes:
        weights: (F,) w.
        weight_precision: (F, F) its precision.
        spread: (E,) u.
        spread_precision: (E, E) its precision.
    """

    def __init__(self, design: Design) -> None:
        self.weights, self.weight_precision = design.weights.copy(), np.diag(design.weight_precision)
        self.spread, self.spread_precision = design.spread.copy(), np.diag(design.spread_precision)

    def predict(self, x: FloatArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of the logits, each (B,).

        Args:
            x: (B, F) regressors of the mean.
            z: (B, E) regressors of the log variance, which is clipped to ±4.
        """
        return x @ self.weights, np.exp(np.clip(z @ self.spread, -4, 4))

    def observe(
        self,
        x: FloatArray,
        z: FloatArray,
        *,
        variance: FloatArray,
        score: FloatArray,
        unexplained: FloatArray,
        information: FloatArray,
    ) -> None:
        """Updates w and u by the first visits of a step.

        The gradient of the log predictive in v is (score² − information)/2, hence v times that in log v. It is
        clipped, since a single task far from its prediction would change u too much.

        Args:
            x: (B, F) regressors of the mean.
            z: (B, E) regressors of the log variance.
            variance: (B,) predicted variance v.
            score: (B,) gradient of each task's log predictive in the mean.
            unexplained: (B,) the score that is left after the ability has changed.
            information: (B,) negative curvature of the log predictive.
        """
        self.weight_precision += x.T @ (x * information[:, None])
        self.weights += np.linalg.solve(self.weight_precision, x.T @ unexplained)
        gradient = np.clip(variance * (score**2 - information) / 2, -2, 2)
        self.spread_precision += z.T @ (z * ((variance * information) ** 2 / 2)[:, None])
        self.spread += np.clip(np.linalg.solve(self.spread_precision, z.T @ gradient), -0.5, 0.5)

    def arrays(self) -> dict[str, FloatArray]:
        """What `observe` changes, by name; not copies."""
        return {
            "weights": self.weights,
            "weight_precision": self.weight_precision,
            "spread": self.spread,
            "spread_precision": self.spread_precision,
        }
