"""AdaRFT: one target difficulty that follows the reward."""

# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection.chunks import Indices, smallest_with_random_ties
from bots_lightning.selection.selector import TaskSelector


def moved_target(target: float, mean_reward: float, *, eta: float, alpha: float, target_reward: float) -> float:
    """One step of the target difficulty of AdaRFT (arXiv:2504.05520), kept in [0, 1].

        T ← clip(T + η tanh(α (mean reward − target reward)), 0, 1)

    Args:
        target: T, the difficulty in [0, 1] that the last step aimed at.
        mean_reward: in [0, 1], over all rollouts of the step.
        eta: η, the largest step, in units of difficulty.
        alpha: α, how steeply the step grows with the reward's distance from its target.
        target_reward: the mean reward at which T rests.
    """
    return min(max(target + eta * math.tanh(alpha * (mean_reward - target_reward)), 0.0), 1.0)


class AdaRFTSelector(TaskSelector):
    """The B tasks whose offline difficulty is nearest to a target difficulty T, ties broken at random.

    T rises while the mean reward is above its target and falls while it is below (AdaRFT, arXiv:2504.05520). A task's
    difficulty is 1 − the pass rate of a reference model, the paper's score on [0, 100] divided by 100; hence the
    default η = 0.5 is its η = 50. Tasks without a pass rate are taken only if a batch needs more tasks than have one.

    Args:
        reference: the pool's column of pass rates.
        eta: η, the largest step of T, in units of difficulty.
        alpha: α, how steeply T moves with the reward's distance from its target.
        target_reward: the mean reward at which T rests.
        initial_difficulty: T of the first step; 0 starts with the easiest tasks.
    """

    def __init__(
        self,
        reference: str,
        eta: float = 0.5,
        alpha: float = 2.0,
        target_reward: float = 0.5,
        initial_difficulty: float = 0.0,
    ) -> None:
        for name, value in (("eta", eta), ("alpha", alpha)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}; expected a finite number >= 0.")
        for name, value in (("target_reward", target_reward), ("initial_difficulty", initial_difficulty)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}; expected a number in [0, 1].")
        self.reference = reference
        self.eta = eta
        self.alpha = alpha
        self.target_reward = target_reward
        self.initial_difficulty = initial_difficulty

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Reads the difficulties.

        Raises:
            ValueError: the pool has no such column.
        """
        super().setup(features, seed)
        self._difficulties = 1 - features.reference(self.reference)
        self._target = self.initial_difficulty

    def add_tasks(self, features: TaskFeatures) -> None:
        """Reads the difficulties of the new tasks too."""
        super().add_tasks(features)
        self._difficulties = 1 - features.reference(self.reference)

    def select(self, batch_size: int) -> Indices:
        """(B,) tasks, nearest to the target difficulty first."""
        self.check_batch_size(batch_size)
        distance = np.abs(self._difficulties - self._target)
        distance[np.isnan(distance)] = np.inf
        return smallest_with_random_ties(distance, batch_size, self.rng)

    def observe(self, evidence: Evidence) -> None:
        """Moves the target by the mean reward; evidence without any rollouts moves nothing."""
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        mean_reward = float(evidence.successes.sum() / evidence.counts.sum())
        rates = {"eta": self.eta, "alpha": self.alpha, "target_reward": self.target_reward}
        self._target = moved_target(self._target, mean_reward, **rates)

    def metrics(self) -> dict[str, float]:
        """The target difficulty."""
        return {"selection/target_difficulty": self._target}

    def state_dict(self) -> dict[str, Any]:
        """Adds the target difficulty."""
        return super().state_dict() | {"target_difficulty": self._target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator and target difficulty."""
        super().load_state_dict(state)
        self._target = float(state["target_difficulty"])
