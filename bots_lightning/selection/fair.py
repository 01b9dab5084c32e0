"""Fair shares: tasks take turns, the oftener the likelier their groups are to teach something."""

# Shapes: N tasks in the pool, B tasks to select, G rollouts per task, K groups of tasks, C cells.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Belief, Evidence, TaskFeatures
from bots_lightning.beliefs.logit_beta import PER_UNIT, logit_cells, logit_grid, logit_moments
from bots_lightning.selection.bayesian import BayesianSelector
from bots_lightning.selection.chunks import Eligible, Indices, smallest_of_pool
from bots_lightning.selection.informative import mixed_probability
from bots_lightning.selection.rules import SelectionRules

# A group's share of extreme rewards is taken to one in so many.
EXTREME_STEPS = 64


class FairShareSelector(BayesianSelector):
    """Weighted fair queueing over tasks: the B smallest turns/weight, weight = exp((E[U_G] + κ sd[U_G])/τ).

    Of all ways to spread visits c over the pool, c ∝ exp(U/τ) maximizes Σ c U + τ·entropy(c): the most mixed groups
    at a given diversity. Taking the smallest turns/weight (Demers, Keshav & Shenker 1989, weights that change) keeps
    the counts at those shares, where sampling from them would add noise. Every task starts with a turn count uniform
    in (0, first_turn), a random phase: of tasks that deserve a fraction of a visit, a fraction is visited. Only
    `setup` and the review share draw from the generator. A choice counts as a turn whether or not it brings evidence.

    Weights look ahead, as a policy that learns finds every task easier later. With d logits of ability still to be
    gained, the log weight w at a logit's mean m is raised to w(m) + (w(m) − w(m + d)): what a visit brings now, and
    what it would lose by coming later. Tasks that will soon be always solved go first, tasks that are still never
    solved wait. d falls linearly from `expected_gain` to 0 over the run's planned selections; where their number is
    not known, nothing is anticipated.

    U_G is the probability that a group's rewards differ; for rewards other than 0 and 1 it takes in how often they
    lie at an end of the range (`mixed_probability`). Weights are looked up by the belief's cells.

    Args:
        belief: what is known of each task; it must have cells.
        temperature: τ; larger spreads visits over more tasks, smaller concentrates them on the likeliest.
        optimism: κ; larger visits uncertain tasks earlier.
        first_turn: 1 gives untried tasks exactly their share; smaller brings first visits forward.
        expected_gain: logits by which the run is expected to raise the tasks' success; 0 does not look ahead.
        num_generations: G assumed for the first selection; after that it is the largest count of the last evidence.
        rules: cooldown, group quotas and review share; none by default.
    """

    def __init__(
        self,
        belief: Belief,
        temperature: float = 0.1,
        optimism: float = 0.5,
        first_turn: float = 0.05,
        expected_gain: float = 0.75,
        num_generations: int = 8,
        rules: SelectionRules | None = None,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}; expected a positive number.")
        if not optimism >= 0:
            raise ValueError(f"optimism={optimism}; expected a number >= 0.")
        if not 0 < first_turn <= 1:
            raise ValueError(f"first_turn={first_turn}; expected a number in (0, 1].")
        if not 0 <= expected_gain < np.inf:
            raise ValueError(f"expected_gain={expected_gain}; expected a finite number >= 0.")
        if num_generations < 2:
            raise ValueError(f"num_generations={num_generations}; rewards of fewer than 2 rollouts cannot differ.")
        super().__init__(belief, rules)
        self.temperature = temperature
        self.optimism = optimism
        self.first_turn = first_turn
        self.expected_gain = expected_gain
        self.num_generations = num_generations

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts the belief from its prior, every task at a random point of its first turn."""
        super().setup(features, seed)
        grid = self.belief.grid()
        if grid is None:
            raise TypeError(f"{type(self.belief).__name__} has no cells, which FairShareSelector looks weights up by.")
        self._logit_cells = logit_cells(*logit_moments(*grid)).ravel()  # (C,) where the belief's cells lie
        self.turns = self._first_turns(self.num_tasks)
        self._group_size = self.num_generations
        self._tabulate()

    def _first_turns(self, count: int) -> npt.NDArray[np.float32]:
        return np.float32(self.first_turn) * (1 - self.rng.random(count, dtype=np.float32))

    def _extreme_rows(self) -> npt.NDArray[np.int64]:
        """Share e of extreme rewards of each group in steps of 1/64, (K,); a single one if nothing is known of them."""
        shape = self.belief.reward_dispersion
        return np.rint((np.ones(1) if shape is None else shape.extreme_share) * EXTREME_STEPS).astype(np.int64)

    def _tabulate(self) -> None:
        """W = (E[U] + κ sd[U])/τ over logits, (L, rows, columns) for the L different e; which of them a group has."""
        self._extreme = self._extreme_rows()
        steps, self._table_of_group = np.unique(self._extreme, return_inverse=True)
        tables = []
        for extreme_share in (steps / EXTREME_STEPS).tolist():
            mean, deviation = mixed_probability(*logit_grid(), self._group_size, extreme_share)
            tables.append((mean + self.optimism * deviation) / self.temperature)
        self._log_weights = np.stack(tables)
        self._look_ahead()

    @property
    def gain_left(self) -> float:
        """d, logits of ability still to be gained."""
        if not self.planned_selections:
            return 0.0
        return self.expected_gain * max(0.0, 1 - self.steps / self.planned_selections)

    def _look_ahead(self) -> None:
        """Log weights at the present d, by the belief's cells: (L·C,) single precision, one e behind the other."""
        self._ahead, rows = round(self.gain_left * PER_UNIT), self._log_weights.shape[1]
        later = self._log_weights[:, np.minimum(np.arange(rows) + self._ahead, rows - 1)]
        raised = (2 * self._log_weights - later).astype(np.float32)
        by_cell = raised.reshape(len(raised), -1)[:, self._logit_cells]
        self._table, self._cells_each = by_cell.ravel(), by_cell.shape[1] if len(by_cell) > 1 else 0

    def _keys(self, where: slice) -> npt.NDArray[np.float32]:
        """log(turns/weight) of a chunk, (n,)."""
        cells = self.belief.cells(where)
        if self._cells_each:
            cells = cells + (self._table_of_group * self._cells_each).take(self.group_codes[where])
        keys = np.log(self.turns[where])
        keys -= self._table.take(cells)  # half the time of [cells]
        return keys

    def _choose(self, sizes: Indices, eligible: Eligible) -> list[Indices]:
        """The tasks most due, in order; each has then had a turn."""
        if round(self.gain_left * PER_UNIT) != self._ahead:
            self._look_ahead()
        due = smallest_of_pool(self._keys, self.num_tasks, sizes, eligible)
        self.turns[np.concatenate(due)] += 1
        return due

    def _review(self, batch_size: int) -> Indices:
        """A review is a turn too."""
        reviewed = super()._review(batch_size)
        self.turns[reviewed] += 1
        return reviewed

    def observe(self, evidence: Evidence) -> None:
        """Updates the belief, and the weights if the step had another group size or other rewards."""
        super().observe(evidence)
        rollouts = int(evidence.counts.max(initial=0))
        resized = rollouts >= 2 and rollouts != self._group_size
        if resized:
            self._group_size = rollouts
        if resized or not np.array_equal(self._extreme_rows(), self._extreme):
            self._tabulate()

    def add_tasks(self, features: TaskFeatures) -> None:
        """The new tasks start at a random point of their group's present turn, with no turns to catch up on."""
        old = self.num_tasks
        super().add_tasks(features)
        self._tabulate()
        now = np.full(len(features.group_names), np.inf)  # log(turns/weight) of each group's most due task
        np.minimum.at(now, self.group_codes[:old], self._keys(slice(0, old)))
        now[np.isinf(now)] = now.min()
        self.turns = np.concatenate([self.turns, np.ones(self.num_tasks - old, dtype=np.float32)])
        new = slice(old, self.num_tasks)
        begun = np.exp(now[self.group_codes[new]] - self._keys(new))  # the key is that of one turn
        self.turns[new] = begun + self._first_turns(self.num_tasks - old)

    def state_dict(self) -> dict[str, Any]:
        """Adds the turns and the group size."""
        return super().state_dict() | {"turns": self.turns.copy(), "group_size": self._group_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, rules, belief and turns."""
        super().load_state_dict(state)
        self.turns = np.array(state["turns"], dtype=np.float32)
        self._group_size = int(state["group_size"])
        self._tabulate()
