"""Thompson sampling: the tasks whose drawn success probability lies nearest to a target."""

# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import Belief, Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.selector import Indices, TaskSelector


def smallest(scores: FloatArray, k: int) -> Indices:
    """(k,) positions of the k smallest scores, ascending; O(N) and not O(N log N)."""
    nearest = np.argpartition(scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
    return nearest[np.argsort(scores[nearest], kind="stable")]


def smallest_with_random_ties(scores: FloatArray, k: int, rng: np.random.Generator) -> Indices:
    """(k,) positions of the k smallest scores, ascending; scores that agree to 12 digits are a tie."""
    shuffled = rng.permutation(len(scores))
    return shuffled[smallest(scores[shuffled].round(12), k)]


class ThompsonSelector(TaskSelector):
    """Draws p̂ from the belief for every task and takes the B smallest |p̂ − p*| (BOTS, arXiv:2510.26374).

    Args:
        belief: what is known of each task.
        target_pass_rate: p*, the success probability of the most instructive task.
        explore: True draws p̂ from the posterior; False takes the posterior mean, ties broken at random.
    """

    def __init__(self, belief: Belief, target_pass_rate: float = 0.5, explore: bool = True) -> None:
        if not 0 <= target_pass_rate <= 1:
            raise ValueError(f"target_pass_rate={target_pass_rate}; expected a number in [0, 1].")
        self.belief = belief
        self.target_pass_rate = target_pass_rate
        self.explore = explore

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts the belief from its prior."""
        super().setup(features, seed)
        self.belief.setup(features)

    def select(self, batch_size: int) -> Indices:
        """(B,) tasks, nearest to the target first."""
        self.check_batch_size(batch_size)
        if self.explore:
            return smallest(np.abs(self.belief.sample(self.rng) - self.target_pass_rate), batch_size)
        # |0.2 − 0.5| and |0.8 − 0.5| differ in their last bit and are a tie all the same.
        return smallest_with_random_ties(np.abs(self.belief.mean() - self.target_pass_rate), batch_size, self.rng)

    def observe(self, evidence: Evidence) -> None:
        """Updates the belief."""
        self.belief.observe(evidence)

    def metrics(self) -> dict[str, float]:
        """The belief's metrics."""
        return self.belief.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Adds the belief's state."""
        return super().state_dict() | {"belief": self.belief.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator and belief."""
        super().load_state_dict(state)
        self.belief.load_state_dict(state["belief"])
