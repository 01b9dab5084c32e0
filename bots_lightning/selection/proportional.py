"""Sampling in proportion to the probability that a group is mixed, at a drawn success probability."""

# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Belief, Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.options import check_numbers
from bots_lightning.selection.bayesian import BayesianSelector
from bots_lightning.selection.chunks import Eligible, Indices, smallest
from bots_lightning.selection.informative import mixed_at
from bots_lightning.selection.rules import SelectionRules

# Up to DENSE tasks, p̂ is drawn for each; in larger pools, PROPOSALS tasks are proposed at a time.
DENSE, PROPOSALS = 1 << 14, 1024


class ProportionalSelector(BayesianSelector):
    """Draws p̂ from the belief for every task, then B tasks without replacement in proportion to U_G(p̂)^power.

    U_G(p) = 1 − p^G − (1−p)^G, the probability that a group is mixed, is nearly flat between p = 0.1 and 0.9, so that
    selection spreads over all tasks whose groups are probably mixed, instead of the few nearest to 0.5. In pools of
    more than 16,384 tasks, random tasks are proposed and accepted with probability (U_G(p̂)/max U_G)^power until there
    are B: the same distribution, except that a task proposed twice draws p̂ again. The number of proposals is about
    B over the mean acceptance, whatever N is, and at most one for every task of the slot.

    Args:
        belief: distribution of each task's success probability.
        power: larger values select closer to p = 0.5.
        num_generations: G for the first selection; afterwards, the largest count of the last evidence.
        rules: cooldown, group quotas and shares of tasks that are due; none by default.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self, belief: Belief, power: float = 8.0, num_generations: int = 8, rules: SelectionRules | None = None
    ) -> None:
        check_numbers(0, below=True, power=power)
        if num_generations < 2:
            raise ValueError(f"num_generations={num_generations}; rewards of fewer than 2 rollouts cannot differ.")
        super().__init__(belief, rules)
        self.power = power
        self.num_generations = num_generations

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts the belief from its prior.

        Args:
            features: of the pool's tasks.
            seed: of the generator from which choices are drawn.

        Raises:
            ValueError: the pool lacks a column that the belief needs, or a group that has a quota.
        """
        super().setup(features, seed)
        self._group_size = self.num_generations

    def _log_weights(self, draws: FloatArray) -> FloatArray:
        """power·log(U_G(p̂)/max U_G), at most 0."""
        most = 1 - 2.0 ** (1 - self._group_size)
        with np.errstate(divide="ignore"):
            return self.power * np.log(np.maximum(mixed_at(draws, self._group_size), 1e-300) / most)

    def _choose(self, sizes: Indices, eligible: Eligible) -> list[Indices]:
        """Draws by the Gumbel trick: the largest log weight + Gumbel noise are a sample without replacement."""
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
        """Draws by rejection sampling; after as many proposals as a slot has tasks, the rest is drawn uniformly."""
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
        """Proposes `each` random tasks per slot; returns those that are eligible and accepted at a drawn p̂."""
        places = [self.rng.integers(count, size=size) for count, size in zip(counts, each, strict=True)]
        if members is not None:
            places = [tasks[at].astype(np.int64) for tasks, at in zip(members, places, strict=True)]
        tasks = np.concatenate(places)
        draws = self.rng.beta(*self._concentrations(tasks))
        kept = np.log(self.rng.random(len(tasks))) < self._log_weights(draws)
        kept &= eligible.of(tasks)
        accepted = np.split(kept, np.cumsum(each)[:-1])
        return [proposed[mask] for proposed, mask in zip(places, accepted, strict=True)]

    def observe(self, evidence: Evidence) -> None:
        """Updates the belief, and the group size if it has changed."""
        super().observe(evidence)
        rollouts = int(evidence.counts.max(initial=0))
        self._group_size = rollouts if rollouts >= 2 else self._group_size

    def state_dict(self) -> dict[str, Any]:
        """Adds the group size."""
        return super().state_dict() | {"group_size": self._group_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, rules, belief and group size.

        Raises:
            ValueError: the state was saved with another selector, pool or number of quotas.
        """
        super().load_state_dict(state)
        self._group_size = int(state["group_size"])


def _first_of_each(tasks: Indices) -> Indices:
    """The tasks in order, without repetitions."""
    _, first = np.unique(tasks, return_index=True)
    return tasks[np.sort(first)]
