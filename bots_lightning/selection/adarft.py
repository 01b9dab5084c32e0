"""AdaRFT: one target difficulty, adapted to the mean reward."""

# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.options import check_numbers
from bots_lightning.selection.chunks import Indices, smallest_with_random_ties
from bots_lightning.selection.selector import TaskSelector


def moved_target(target: float, mean_reward: float, *, eta: float, alpha: float, target_reward: float) -> float:
    """One step of the target difficulty of AdaRFT (arXiv:2504.05520), kept in [0, 1].

        T ← clip(T + η tanh(α (mean reward − target reward)), 0, 1)

    Args:
        target: T of the last step, in [0, 1].
        mean_reward: over all rollouts of the step, in [0, 1].
        eta: η, the largest change of T.
        alpha: α, sensitivity to the difference between the mean reward and its target.
        target_reward: the mean reward at which T does not change.

    Returns:
        T of the next step.
    """
    return min(max(target + eta * math.tanh(alpha * (mean_reward - target_reward)), 0.0), 1.0)


class AdaRFTSelector(TaskSelector):
    """Selects the B tasks whose offline difficulty is nearest to a target difficulty T, ties broken at random.

    T rises while the mean reward is above its target and falls while it is below (AdaRFT, arXiv:2504.05520). A task's
    difficulty is 1 − the pass rate of a reference model. The paper's difficulties are 100 times as large, so that the
    default η = 0.5 is its η = 50. Tasks without a pass rate are selected only if too few others are left.

    Args:
        reference: name of the pool's column of pass rates.
        eta: η, the largest change of T per step.
        alpha: α, sensitivity of T to the difference between the mean reward and its target.
        target_reward: the mean reward at which T does not change.
        initial_difficulty: T of the first step; 0 starts with the easiest tasks.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        reference: str,
        eta: float = 0.5,
        alpha: float = 2.0,
        target_reward: float = 0.5,
        initial_difficulty: float = 0.0,
    ) -> None:
        check_numbers(0, below=True, eta=eta, alpha=alpha)
        check_numbers(0, high=1, target_reward=target_reward, initial_difficulty=initial_difficulty)
        self.reference = reference
        self.eta = eta
        self.alpha = alpha
        self.target_reward = target_reward
        self.initial_difficulty = initial_difficulty

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Reads the difficulties and starts at the initial target.

        Args:
            features: of the pool's tasks.
            seed: of the generator that breaks ties.

        Raises:
            ValueError: the pool has no column `reference`.
        """
        super().setup(features, seed)
        self._difficulties = 1 - features.reference(self.reference)
        self._target = self.initial_difficulty

    def add_tasks(self, features: TaskFeatures) -> None:
        """Reads the difficulties of the new tasks too."""
        super().add_tasks(features)
        self._difficulties = 1 - features.reference(self.reference)

    def select(self, batch_size: int) -> Indices:
        """(B,) positions of the selected tasks, nearest to the target difficulty first."""
        self.check_batch_size(batch_size)
        distance = np.abs(self._difficulties - self._target)
        distance[np.isnan(distance)] = np.inf
        return smallest_with_random_ties(distance, batch_size, self.rng)

    def observe(self, evidence: Evidence) -> None:
        """Updates the target by the mean reward; evidence without any rollouts is ignored."""
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
        """Restores generator and target difficulty.

        Raises:
            ValueError: the state was saved with another selector or pool.
        """
        super().load_state_dict(state)
        self._target = float(state["target_difficulty"])
