"""Thompson sampling: selects the tasks whose drawn success probability is nearest to a target."""

# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import Belief, TaskFeatures
from bots_lightning.options import check_numbers
from bots_lightning.selection.bayesian import BayesianSelector
from bots_lightning.selection.chunks import Eligible, Indices, smallest, smallest_with_random_ties
from bots_lightning.selection.rules import SelectionRules
from bots_lightning.selection.schedule import LinearSchedule
from bots_lightning.selection.thinning import draws_within, first_radius, next_radius

# Up to this many tasks, p̂ is drawn for each.
DENSE = 1 << 14


class ThompsonSelector(BayesianSelector):
    """Draws p̂ from the belief for every task and takes the B smallest |p̂ − p*| (BOTS, arXiv:2510.26374).

    For p* = 0.5 these are also the B tasks whose groups are most likely mixed at p̂, since 1 − p̂^G − (1−p̂)^G falls
    with |p̂ − 0.5|. In pools of more than 16,384 tasks, draws far from p* are skipped (`draws_within`), which does not
    change the distribution of the selection. A target with a schedule costs some 20 ms more per selection there.

    Args:
        belief: distribution of each task's success probability.
        target_pass_rate: p*, the success probability to aim at: a number or a schedule.
        explore: True draws p̂ from the posterior; False uses the posterior mean, ties broken at random.
        rules: cooldown, group quotas and shares of tasks that are due; none by default.

    Raises:
        ValueError: the target is out of range.
    """

    def __init__(
        self,
        belief: Belief,
        target_pass_rate: float | LinearSchedule = 0.5,
        explore: bool = True,
        rules: SelectionRules | None = None,
    ) -> None:
        if not isinstance(target_pass_rate, LinearSchedule):
            check_numbers(0, high=1, target_pass_rate=target_pass_rate)
        super().__init__(belief, rules)
        self.target_pass_rate = target_pass_rate
        self.explore = explore

    def _use_groups(self, features: TaskFeatures) -> None:
        super()._use_groups(features)
        slots, quotas = self._slots, 0 if self._slots is None else len(self._shares)
        self._radius = np.zeros(quotas + 1)  # of the last draws: one for each slot, then one for the whole pool
        if slots is not None:
            self._slot_counts = np.bincount(slots.take(self.group_codes), minlength=quotas)

    @property
    def target(self) -> float:
        """The target p* of the next selection."""
        fixed = self.target_pass_rate
        return fixed.at(self.steps) if isinstance(fixed, LinearSchedule) else fixed

    def _choose(self, sizes: Indices, eligible: Eligible) -> list[Indices]:
        """The tasks nearest to the target, nearest first."""
        if self.explore and self.num_tasks > DENSE and self.belief.grid() is not None:
            return self._choose_of_many(sizes, eligible)
        chosen, distance = [np.empty(0, dtype=np.int64)] * len(sizes), None
        members = self._members_of(eligible)
        for slot in np.flatnonzero(sizes).tolist():
            if distance is None or (self.explore and self.num_tasks <= DENSE):  # small pools: new draws for each slot
                # |0.2 − 0.5| and |0.8 − 0.5| differ in their last bit but count as a tie.
                believed = self.belief.sample(self.rng) if self.explore else self.belief.mean()
                distance = eligible.exclude(np.abs(believed - self.target), slice(0, self.num_tasks))
            mine, size = distance[members[slot]], int(sizes[slot])
            nearest = smallest(mine, size) if self.explore else smallest_with_random_ties(mine, size, self.rng)
            chosen[slot] = members[slot][nearest[np.isfinite(mine[nearest])]].astype(np.int64)
        return chosen

    def _choose_of_many(self, sizes: Indices, eligible: Eligible) -> list[Indices]:
        """Chooses from a large pool by draws in an interval around the target, widened until it holds enough.

        Except at the first selections, an interval holds too few draws once in a billion selections; only then does
        drawing again in a wider one differ from a single draw of all tasks.
        """
        one = eligible.slots is None
        radius = self._radius[-1:] if one else self._radius[:-1]  # of each slot; changed in place
        counts = [self.num_tasks] if one else self._slot_counts.tolist()
        chosen, wanted = [np.empty(0, dtype=np.int64)] * len(sizes), sizes > 0
        for slot in np.flatnonzero(wanted & (radius == 0)).tolist():
            radius[slot] = first_radius(counts[slot], int(sizes[slot]))
        while wanted.any():
            asked = np.where(wanted, radius, 0.0)
            tasks, draws = draws_within(self.belief, self.target, asked, self.num_tasks, eligible, self.rng)
            found = eligible.places(tasks, len(sizes))
            for slot in np.flatnonzero(wanted).tolist():
                mine, size = found[slot], int(sizes[slot])
                if len(mine) < size and radius[slot] < 1:
                    radius[slot] = min(4 * radius[slot], 1.0)
                    continue
                wanted[slot] = False
                radius[slot] = next_radius(float(radius[slot]), len(mine), size)
                chosen[slot] = tasks[mine[smallest(np.abs(draws[mine] - self.target), size)]]
        return chosen

    def metrics(self) -> dict[str, float]:
        """The belief's metrics, and the target if it has a schedule."""
        moves = isinstance(self.target_pass_rate, LinearSchedule)
        return super().metrics() | ({"selection/target_pass_rate": self.target} if moves else {})

    def state_dict(self) -> dict[str, Any]:
        """Adds the radius of each slot's draws."""
        return super().state_dict() | {"radius": self._radius.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, belief, rules and radius.

        Raises:
            ValueError: the state was saved with another selector, pool or number of quotas.
        """
        super().load_state_dict(state)
        saved = np.array(state["radius"], dtype=np.float64)
        self._radius[: len(saved)] = saved  # states of earlier versions lack that of the whole pool
