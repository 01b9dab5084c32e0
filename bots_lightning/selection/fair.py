"""Fair shares: tasks take turns, the oftener the likelier their groups are to teach something."""

# Shapes: N tasks in the pool, B tasks to select, G rollouts per task, K groups of tasks, C cells.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Belief, Evidence, TaskFeatures
from bots_lightning.selection.bayesian import BayesianSelector
from bots_lightning.selection.chunks import Eligible, Indices, smallest_of_pool
from bots_lightning.selection.informative import mixed_probability
from bots_lightning.selection.rules import SelectionRules

# The weights are tabulated anew when a group's share of extreme rewards has moved by more than this.
_MOVED = 1 / 64


class FairShareSelector(BayesianSelector):
    """Weighted fair queueing over tasks: the B smallest turns/weight, weight = exp((E[U_G] + κ sd[U_G])/τ).

    Of all ways to spread visits c over the pool, c ∝ exp(U/τ) maximizes Σ c U + τ·entropy(c): the most mixed groups
    at a given diversity. Taking the smallest turns/weight (Demers, Keshav & Shenker 1989, weights that change) keeps
    the counts at those shares, where sampling from them would add noise. Every task starts with a turn count uniform
    in (0, first_turn), a random phase: of tasks that deserve a fraction of a visit, a fraction is visited. Only
    `setup` and the review share draw from the generator. A choice counts as a turn whether or not it brings evidence.

    U_G is the probability that a group's rewards differ; for rewards other than 0 and 1 it takes in how often they
    lie at an end of the range (`mixed_probability`). Weights are looked up by the belief's cells.

    Args:
        belief: what is known of each task; it must have cells.
        temperature: τ; larger spreads visits over more tasks, smaller concentrates them on the likeliest.
        optimism: κ; larger visits uncertain tasks earlier.
        first_turn: 1 gives untried tasks exactly their share; smaller brings first visits forward.
        num_generations: G assumed for the first selection; after that it is the largest count of the last evidence.
        rules: cooldown, group quotas and review share; none by default.
    """

    def __init__(
        self,
        belief: Belief,
        temperature: float = 0.12,
        optimism: float = 0.5,
        first_turn: float = 0.3,
        num_generations: int = 8,
        rules: SelectionRules | None = None,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}; expected a positive number.")
        if not optimism >= 0:
            raise ValueError(f"optimism={optimism}; expected a number >= 0.")
        if not 0 < first_turn <= 1:
            raise ValueError(f"first_turn={first_turn}; expected a number in (0, 1].")
        if num_generations < 2:
            raise ValueError(f"num_generations={num_generations}; rewards of fewer than 2 rollouts cannot differ.")
        super().__init__(belief, rules)
        self.temperature = temperature
        self.optimism = optimism
        self.first_turn = first_turn
        self.num_generations = num_generations

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts the belief from its prior, every task at a random point of its first turn."""
        super().setup(features, seed)
        if self.belief.grid() is None:
            raise TypeError(f"{type(self.belief).__name__} has no cells, which FairShareSelector looks weights up by.")
        self.turns = self._first_turns(self.num_tasks)
        self._group_size = self.num_generations
        self._tabulate()

    def _first_turns(self, count: int) -> npt.NDArray[np.float32]:
        return np.float32(self.first_turn) * (1 - self.rng.random(count, dtype=np.float32))

    def _tabulate(self) -> None:
        """(E[U] + κ sd[U])/τ of every cell: (C,), or (K, C) flattened where not all rewards are 0 or 1."""
        shape, grid = self.belief.reward_shape, self.belief.grid()
        assert grid is not None
        self._extreme = np.ones(1) if shape is None else shape.extreme_share.copy()
        rows = np.ones(1) if (self._extreme == 1).all() else self._extreme
        tables = []
        for extreme_share in rows.tolist():
            mean, deviation = mixed_probability(*grid, self._group_size, extreme_share)
            tables.append(((mean + self.optimism * deviation) / self.temperature).astype(np.float32).ravel())
        self._table, self._cells_each = np.concatenate(tables), len(tables[0]) if len(tables) > 1 else 0

    def _keys(self, where: slice) -> npt.NDArray[np.float32]:
        """log(turns/weight) of a chunk, (n,)."""
        cells = self.belief.cells(where)
        if self._cells_each:
            cells = cells + self.group_codes[where].astype(np.int32) * self._cells_each
        keys = np.log(self.turns[where])
        keys -= self._table[cells]
        return keys

    def _choose(self, size: int, eligible: Eligible, slot: int) -> Indices:
        """The tasks most due, in order; each has then had a turn."""
        due = smallest_of_pool(self._keys, self.num_tasks, size, eligible)
        self.turns[due] += 1
        return due

    def observe(self, evidence: Evidence) -> None:
        """Updates the belief, and the weights if the step had another group size or other rewards."""
        super().observe(evidence)
        rollouts, shape = int(evidence.counts.max(initial=0)), self.belief.reward_shape
        moved = shape is not None and np.abs(shape.extreme_share - self._extreme).max() > _MOVED
        if moved or (rollouts >= 2 and rollouts != self._group_size):
            self._group_size = rollouts if rollouts >= 2 else self._group_size
            self._tabulate()

    def add_tasks(self, features: TaskFeatures) -> None:
        """The new tasks start at a random point of the present turn, not of the first one: they have missed nothing."""
        old = self.num_tasks
        super().add_tasks(features)
        self.turns = np.concatenate([self.turns, self._first_turns(self.num_tasks - old)])
        self._tabulate()

    def state_dict(self) -> dict[str, Any]:
        """Adds the turns, and what the weights were tabulated for."""
        own = {"turns": self.turns.copy(), "group_size": self._group_size, "extreme_share": self._extreme.copy()}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, rules, belief and turns."""
        super().load_state_dict(state)
        self.turns = np.array(state["turns"], dtype=np.float32)
        self._group_size = int(state["group_size"])
        self._tabulate()
