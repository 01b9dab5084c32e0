"""The ability of a policy on each group of tasks, as a random walk."""

# Shapes: B tasks in the step, K groups.

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import FloatArray

IntArray = npt.NDArray[np.int64]


class GroupAbility:
    """A Gaussian belief about the ability A_g of each group, in logits, updated by a Kalman filter.

    With one group, A starts at exactly 0, since the weight of the constant regressor is its level; with several, their
    levels differ with variance 1.

    Args:
        num_groups: K.
        drift: q_A, by which the variance of every A_g grows at each step.

    Attributes:
        mean: (K,) mean of A_g.
        variance: (K,) variance of A_g.
    """

    def __init__(self, num_groups: int, drift: float) -> None:
        self.drift = drift
        self.mean: FloatArray = np.zeros(num_groups)
        self.variance: FloatArray = np.full(num_groups, 1.0 if num_groups > 1 else 0.0)

    def observe(self, group: IntArray, score: FloatArray, information: FloatArray, ages: FloatArray) -> FloatArray:
        """Performs one Kalman step of each A_g, at the time of its oldest evidence.

        Args:
            group: (B,) group of each task.
            score: (B,) gradient of each task's log predictive.
            information: (B,) its negative curvature.
            ages: (B,) updates of the policy since the evidence was sampled.

        Returns:
            (B,) by how much the ability of each task's group has changed.
        """
        self.variance += self.drift
        oldest = np.zeros(len(self.mean))
        np.maximum.at(oldest, group, ages)
        drifted = np.minimum(oldest * self.drift, self.variance)
        self.variance -= drifted
        total = np.bincount(group, information, len(self.mean))
        pull = np.bincount(group, score, len(self.mean))
        self.variance *= 1 / (1 + self.variance * total)
        moved: FloatArray = self.variance * pull
        self.mean += moved
        self.variance += drifted
        return moved[group]

    def grow(self, num_groups: int) -> None:
        """Adds groups, which start at the mean ability of the others."""
        new = num_groups - len(self.mean)
        self.mean = np.concatenate([self.mean, np.full(new, self.mean.mean())])
        self.variance = np.concatenate([self.variance, np.full(new, 1.0)])

    def arrays(self) -> dict[str, FloatArray]:
        """What `observe` changes, by name; not copies."""
        return {"ability": self.mean, "ability_variance": self.variance}
