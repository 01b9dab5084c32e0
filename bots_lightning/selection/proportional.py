"""Sampling in proportion to how likely a group is to be mixed at a drawn success probability."""

# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Belief, Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.bayesian import BayesianSelector
from bots_lightning.selection.chunks import Eligible, Indices, smallest
from bots_lightning.selection.informative import mixed_at
from bots_lightning.selection.rules import SelectionRules

# Up to so many tasks, a draw for each is cheap; beyond, so many are proposed at a time.
DENSE, PROPOSALS = 1 << 14, 1024


class ProportionalSelector(BayesianSelector):
    """Draws p̂ from the belief for every task, then B tasks without replacement in proportion to U_G(p̂)^power.

    U_G(p) = 1 − p^G − (1−p)^G is nearly flat between p = 0.1 and 0.9, so that this spreads over all tasks that probably
    teach something, where the nearest to 0.5 are few. In pools of more than 16,384 tasks, random tasks are proposed and
    kept with probability (U_G(p̂)/max U_G)^power until there are B: the same law but for tasks proposed twice, which
    draw anew. It costs B over the mean of that probability, whatever N is, up to a draw for every task of the slot.

    Args:
        belief: what is known of each task.
        power: larger keeps closer to p = 0.5.
        num_generations: G assumed for the first selection; after that it is the largest count of the last evidence.
        rules: cooldown, group quotas and review share; none by default.
    """

    def __init__(
        self, belief: Belief, power: float = 8.0, num_generations: int = 8, rules: SelectionRules | None = None
    ) -> None:
        if not 0 <= power < np.inf:
            raise ValueError(f"power={power}; expected a finite number >= 0.")
        if num_generations < 2:
            raise ValueError(f"num_generations={num_generations}; rewards of fewer than 2 rollouts cannot differ.")
        super().__init__(belief, rules)
        self.power = power
        self.num_generations = num_generations

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts the belief from its prior."""
        super().setup(features, seed)
        self._group_size = self.num_generations

    def _log_weights(self, draws: FloatArray) -> FloatArray:
        """power·log(U_G(p̂)/max U_G), 0 at most."""
        most = 1 - 2.0 ** (1 - self._group_size)
        with np.errstate(divide="ignore"):
            return self.power * np.log(np.maximum(mixed_at(draws, self._group_size), 1e-300) / most)

    def _choose(self, sizes: Indices, eligible: Eligible) -> list[Indices]:
        """By the Gumbel trick: the largest log weight + Gumbel noise are a draw without replacement."""
        if self.num_tasks > DENSE:
            return self._choose_of_many(sizes, eligible)
        chosen, members = [np.empty(0, dtype=np.int64)] * len(sizes), self._members_of(eligible)
        for slot in np.flatnonzero(sizes).tolist():
            keys = -self._log_weights(self.belief.sample(self.rng)) - self.rng.gumbel(size=self.num_tasks)
            keys = eligible.exclude(keys, slice(0, self.num_tasks))[members[slot]]
            best = smallest(keys, int(sizes[slot]))
            chosen[slot] = members[slot][best[np.isfinite(keys[best])]].astype(np.int64)
        return chosen

    def _choose_of_many(self, sizes: Indices, eligible: Eligible) -> list[Indices]:
        """By rejection; what as many proposals as a slot has tasks have not found is taken from them at random."""
        members = None if eligible.slots is None else self._members_of(eligible)
        counts = np.array([self.num_tasks] if members is None else [len(tasks) for tasks in members])
        chosen, proposed = [np.empty(0, dtype=np.int64)] * len(sizes), np.zeros(len(sizes), dtype=np.int64)
        lacking = sizes.copy()
        while (asked := (lacking > 0) & (proposed < counts)).any():
            each = np.where(asked, np.maximum(PROPOSALS * lacking // lacking[asked].sum(), 1), 0)
            proposed += each
            for slot, kept in enumerate(self._proposed(each, counts, members, eligible)):
                chosen[slot] = _first_of_each(np.concatenate([chosen[slot], kept]))[: sizes[slot]]
                lacking[slot] = sizes[slot] - len(chosen[slot])
        for slot in np.flatnonzero(lacking).tolist():
            rest = self.rng.permutation(self.num_tasks if members is None else members[slot].astype(np.int64))
            rest = rest[eligible.of(rest)]
            chosen[slot] = _first_of_each(np.concatenate([chosen[slot], rest]))[: sizes[slot]]
        return chosen

    def _proposed(
        self, each: Indices, counts: Indices, members: list[npt.NDArray[Any]] | None, eligible: Eligible
    ) -> list[Indices]:
        """So many random tasks of each slot, of which those stay that are eligible and pass at a drawn p̂."""
        places = [self.rng.integers(count, size=size) for count, size in zip(counts, each, strict=True)]
        if members is not None:
            places = [tasks[at].astype(np.int64) for tasks, at in zip(members, places, strict=True)]
        tasks = np.concatenate(places)
        draws = self.rng.beta(*self._concentrations(tasks))
        kept = np.log(self.rng.random(len(tasks))) < self._log_weights(draws)
        kept &= eligible.of(tasks)
        return [part[stays] for part, stays in zip(places, np.split(kept, np.cumsum(each)[:-1]), strict=True)]

    def observe(self, evidence: Evidence) -> None:
        """Updates the belief, and the group size if the step had another one."""
        super().observe(evidence)
        rollouts = int(evidence.counts.max(initial=0))
        self._group_size = rollouts if rollouts >= 2 else self._group_size

    def state_dict(self) -> dict[str, Any]:
        """Adds the group size."""
        return super().state_dict() | {"group_size": self._group_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, rules, belief and group size."""
        super().load_state_dict(state)
        self._group_size = int(state["group_size"])


def _first_of_each(tasks: Indices) -> Indices:
    """The tasks in order, repetitions left out."""
    _, first = np.unique(tasks, return_index=True)
    return tasks[np.sort(first)]
