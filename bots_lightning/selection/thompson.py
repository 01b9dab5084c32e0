"""Thompson sampling: the tasks whose drawn success probability lies nearest to a target."""

# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import Belief, TaskFeatures
from bots_lightning.selection.bayesian import BayesianSelector
from bots_lightning.selection.chunks import Eligible, Indices, smallest, smallest_with_random_ties
from bots_lightning.selection.rules import SelectionRules
from bots_lightning.selection.schedule import LinearSchedule
from bots_lightning.selection.thinning import draws_within, first_radius, next_radius

# Up to so many tasks, a draw for each is cheap.
DENSE = 1 << 14


class ThompsonSelector(BayesianSelector):
    """Draws p̂ from the belief for every task and takes the B smallest |p̂ − p*| (BOTS, arXiv:2510.26374).

    For p* = 0.5 these are also the B drawn tasks whose groups are likeliest to be mixed, since 1 − p̂^G − (1−p̂)^G falls
    with |p̂ − 0.5|. In pools of more than 16,384 tasks the draws that do not come near p* are not made (`draws_within`);
    the law of the choice is the same. A target that moves costs some 20 ms more a selection there.

    Args:
        belief: what is known of each task.
        target_pass_rate: p*, the success probability of the most instructive task: a number or a schedule.
        explore: True draws p̂ from the posterior; False takes the posterior mean, ties broken at random.
        rules: cooldown, group quotas and review share; none by default.
    """

    def __init__(
        self,
        belief: Belief,
        target_pass_rate: float | LinearSchedule = 0.5,
        explore: bool = True,
        rules: SelectionRules | None = None,
    ) -> None:
        if not isinstance(target_pass_rate, LinearSchedule) and not 0 <= target_pass_rate <= 1:
            raise ValueError(f"target_pass_rate={target_pass_rate}; expected a number in [0, 1].")
        super().__init__(belief, rules)
        self.target_pass_rate = target_pass_rate
        self.explore = explore

    def _use_groups(self, features: TaskFeatures) -> None:
        super()._use_groups(features)
        self._radius = np.zeros(len(self._slots))  # of the draws that were made last, for each slot

    @property
    def target(self) -> float:
        """p* of the next selection."""
        fixed = self.target_pass_rate
        return fixed.at(self.steps) if isinstance(fixed, LinearSchedule) else fixed

    def _choose(self, size: int, eligible: Eligible, slot: int) -> Indices:
        """Tasks nearest to the target first."""
        if self.explore and self.num_tasks > DENSE and self.belief.grid() is not None:
            return self._choose_of_many(size, eligible, slot)
        # |0.2 − 0.5| and |0.8 − 0.5| differ in their last bit and are a tie all the same.
        believed = self.belief.sample(self.rng) if self.explore else self.belief.mean()
        distance = eligible.exclude(np.abs(believed - self.target), slice(0, self.num_tasks))
        nearest = smallest(distance, size) if self.explore else smallest_with_random_ties(distance, size, self.rng)
        return nearest[np.isfinite(distance[nearest])]

    def _choose_of_many(self, size: int, eligible: Eligible, slot: int) -> Indices:
        """The same from a large pool: draws near the target only, in an interval that is widened until it holds enough.

        That an interval holds too few draws happens once in a billion selections, but for the first ones; only then
        does drawing anew in a wider one deviate from a single draw of all tasks.
        """
        radius = float(self._radius[slot]) or first_radius(self.num_tasks, size)
        while True:
            tasks, draws = draws_within(self.belief, self.target, radius, self.num_tasks, eligible, self.rng)
            if len(tasks) >= size or radius >= 1:
                break
            radius = min(4 * radius, 1.0)
        self._radius[slot] = next_radius(radius, len(tasks), size)
        return tasks[smallest(np.abs(draws - self.target), size)]

    def metrics(self) -> dict[str, float]:
        """The belief's metrics, and the target if it moves."""
        moves = isinstance(self.target_pass_rate, LinearSchedule)
        return super().metrics() | ({"selection/target_pass_rate": self.target} if moves else {})

    def state_dict(self) -> dict[str, Any]:
        """Adds the radius of the draws."""
        return super().state_dict() | {"radius": self._radius.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, belief, rules and radius."""
        super().load_state_dict(state)
        self._radius = np.array(state["radius"], dtype=np.float64)
