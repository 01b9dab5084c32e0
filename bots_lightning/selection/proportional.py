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

# Up to so many tasks, a draw for each is cheap; beyond, so many are proposed at a time, so many of each slot at least.
DENSE, PROPOSALS, LEAST = 1 << 14, 1024, 64


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
        choose = self._choose_of_many if self.num_tasks > DENSE else self._choose_of_few
        members = None if eligible.slots is None else self._members_of(eligible)
        none, shares = np.empty(0, dtype=np.int64), sizes / sizes.sum()
        return [
            choose(int(size), eligible, None if members is None else members[slot], share) if size else none
            for slot, (size, share) in enumerate(zip(sizes, shares, strict=True))
        ]

    def _choose_of_few(self, size: int, eligible: Eligible, tasks: npt.NDArray[Any] | None, share: float) -> Indices:
        keys = -self._log_weights(self.belief.sample(self.rng)) - self.rng.gumbel(size=self.num_tasks)
        eligible.exclude(keys, slice(0, self.num_tasks))
        tasks = np.arange(self.num_tasks) if tasks is None else tasks.astype(np.int64)
        chosen = tasks[smallest(keys[tasks], size)]
        return chosen[np.isfinite(keys[chosen])]

    def _choose_of_many(self, size: int, eligible: Eligible, tasks: npt.NDArray[Any] | None, share: float) -> Indices:
        """By rejection; what as many proposals as there are tasks have not found is taken from them at random.

        Args:
            size: how many.
            eligible: which may be chosen.
            tasks: of the slot; None for the whole pool.
            share: of the batch that the slot is, and so of the proposals.
        """
        count, proposals = self.num_tasks if tasks is None else len(tasks), max(LEAST, round(PROPOSALS * share))
        chosen = np.empty(0, dtype=np.int64)
        for _ in range(-(-count // proposals)):
            proposed = self.rng.integers(count, size=proposals)
            proposed = proposed if tasks is None else tasks[proposed].astype(np.int64)
            draws = self.rng.beta(*self._concentrations(proposed))
            kept = proposed[np.log(self.rng.random(proposals)) < self._log_weights(draws)]
            chosen = _first_of_each(np.concatenate([chosen, kept[eligible.of(kept)]]))
            if len(chosen) >= size:
                return chosen[:size]
        rest = self.rng.permutation(self.num_tasks if tasks is None else tasks.astype(np.int64))
        return _first_of_each(np.concatenate([chosen, rest[eligible.of(rest)]]))[:size]

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
