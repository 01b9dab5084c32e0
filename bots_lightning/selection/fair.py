"""Fair shares: every task is visited at a rate that grows with the probability that its group is mixed."""

# Shapes: N tasks in the pool, B tasks to select, G rollouts per task, K groups of tasks, C cells.

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Belief, Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.beliefs.logit_beta import PER_UNIT, logit_cells, logit_grid, logit_moments
from bots_lightning.options import check_numbers
from bots_lightning.selection.bayesian import BayesianSelector
from bots_lightning.selection.chunks import Eligible, Indices, smallest_of_pool
from bots_lightning.selection.informative import mixed_probability
from bots_lightning.selection.rules import SelectionRules

# A group's share of extreme rewards is rounded to multiples of 1/64.
EXTREME_STEPS = 64
# The least u of which a power is taken: even with hold > 0, tasks that are surely solved keep a share.
LEAST_HELD = 0.02


class FairShareSelector(BayesianSelector):
    """Weighted fair queueing over tasks: the B smallest turns/weight, weight = exp((u − 1)/τ), u = E[U_G] + κ sd[U_G].

    U_G is the probability that a group is mixed (`mixed_probability`). Of all distributions c of visits over the
    pool, c ∝ exp(U/τ) maximizes Σ c U + τ·entropy(c): the most mixed groups at a given diversity. Selecting the
    smallest turns/weight (Demers, Keshav & Shenker 1989, with weights that change) keeps visit counts at those
    shares, whereas sampling from them would add noise. The turns of a task are its visits plus a random phase,
    uniform in (0, first_turn): of tasks whose share is a fraction of a visit, a fraction is visited. Only `setup` and
    the review share draw from the generator. A selection counts as a visit whether or not it yields evidence.

    What the policy can do is held. A selector that leaves solved tasks alone unlearns them: they are visited until they
    are solved, and decay until they qualify again. Where E[p] ≥ ½ the weight is therefore at least u^hold; with
    hold = 0 nothing that the policy can do is avoided, only what is hopeless is. For the same reason G is an option of
    this class and not the number of rollouts per task: of 4 rollouts, U_4 is .34 at p = .9 already.

    Weights may look ahead, since a policy that improves will find every task easier later. If d logits of ability are
    still to be gained, the log weight w of a logit with mean m becomes w(m) + (w(m) − w(m + d)): the value of a visit
    now, plus its loss if postponed. Tasks that will soon always be solved come first, tasks that are not yet solved
    come later. d falls linearly from `expected_gain` to 0 over the run's planned selections; if their number is
    unknown, d = 0.

    Weights are looked up by the belief's cells, for rewards other than 0 and 1 by the group's share of extreme
    rewards too.

    Args:
        belief: distribution of each task's success probability; it must have cells.
        temperature: τ; larger values spread visits over more tasks, smaller ones concentrate them.
        optimism: κ; larger values select uncertain tasks earlier.
        first_turn: 1 gives unvisited tasks exactly their share; smaller values bring first visits forward.
        expected_gain: logits by which the run is expected to raise the tasks' success; 0 does not look ahead.
        hold: exponent of the least weight where E[p] ≥ ½; None lets weights fall there as they do below.
        floor: least weight of all, for tasks that are believed hopeless and may not be.
        num_generations: G of the weights, whatever the number of rollouts per task.
        rules: cooldown, group quotas and review share; none by default.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        belief: Belief,
        temperature: float = 0.085,
        optimism: float = 0.5,
        first_turn: float = 0.05,
        expected_gain: float = 0.0,
        hold: float | None = 0.0,
        floor: float = 0.0,
        num_generations: int = 16,
        rules: SelectionRules | None = None,
    ) -> None:
        check_numbers(0, above=True, temperature=temperature)
        check_numbers(0, optimism=optimism)
        check_numbers(0, above=True, high=1, first_turn=first_turn)
        check_numbers(0, below=True, expected_gain=expected_gain, hold=hold)
        check_numbers(0, high=1, floor=floor)
        if num_generations < 2:
            raise ValueError(f"num_generations={num_generations}; rewards of fewer than 2 rollouts cannot differ.")
        super().__init__(belief, rules)
        self.temperature = temperature
        self.optimism = optimism
        self.first_turn = first_turn
        self.expected_gain = expected_gain
        self.hold = hold
        self.floor = floor
        self.num_generations = num_generations

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts the belief from its prior, and every task at a random phase of its first turn.

        Args:
            features: of the pool's tasks.
            seed: of the generator that draws the phases.

        Raises:
            TypeError: the belief has no cells.
            ValueError: the pool lacks a column that the belief needs, or a group that has a quota.
        """
        super().setup(features, seed)
        grid = self.belief.grid()
        if grid is None:
            raise TypeError(f"{type(self.belief).__name__} has no cells, by which FairShareSelector looks up weights.")
        self._logit_cells = logit_cells(*logit_moments(*grid)).ravel()  # (C,) logit cell of each of the belief's cells
        self.turns = self._first_turns(self.num_tasks)
        self._tabulate()

    def _first_turns(self, count: int) -> npt.NDArray[np.float32]:
        return np.float32(self.first_turn) * (1 - self.rng.random(count, dtype=np.float32))

    def _extreme_rows(self) -> npt.NDArray[np.int64]:
        """Share e of extreme rewards of each group in steps of 1/64, (K,); (1,) if the belief does not know them."""
        rewards = self.belief.reward_dispersion
        return np.rint((np.ones(1) if rewards is None else rewards.extreme_share) * EXTREME_STEPS).astype(np.int64)

    def _tabulate(self) -> None:
        """Tabulates log weights over logits for each of the L distinct e, (L, rows, columns)."""
        self._extreme = self._extreme_rows()
        steps, self._table_of_group = np.unique(self._extreme, return_inverse=True)
        self._log_weights = np.stack([self._weights_over_logits(e) for e in (steps / EXTREME_STEPS).tolist()])
        self._look_ahead()

    def _weights_over_logits(self, extreme_share: float) -> FloatArray:
        alpha, beta = logit_grid()
        mean, deviation = _mixed_over_logits(self.num_generations, extreme_share)
        value = mean + self.optimism * deviation
        log_weights = (value - 1) / self.temperature
        if self.hold is not None:
            held = self.hold * np.log(np.clip(value, LEAST_HELD, 1))
            log_weights = np.where(alpha >= beta, np.maximum(log_weights, held), log_weights)
        return np.maximum(log_weights, np.log(self.floor)) if self.floor else log_weights

    @property
    def gain_left(self) -> float:
        """Logits of ability still to be gained, d."""
        if not self.planned_selections:
            return 0.0
        return self.expected_gain * max(0.0, 1 - self.steps / self.planned_selections)

    def _look_ahead(self) -> None:
        """Tabulates log weights at the current d by the belief's cells: (L·C,), the C of one e after the other."""
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
        keys -= self._table.take(cells)  # twice as fast as [cells]
        return keys

    def _choose(self, sizes: Indices, eligible: Eligible) -> list[Indices]:
        """The tasks with the smallest turns/weight, ascending; counts a turn for each."""
        if round(self.gain_left * PER_UNIT) != self._ahead:
            self._look_ahead()
        due = smallest_of_pool(self._keys, self.num_tasks, sizes, eligible)
        self.turns[np.concatenate(due)] += 1
        return due

    def _review(self, batch_size: int) -> Indices:
        """Counts a turn for reviewed tasks too."""
        reviewed = super()._review(batch_size)
        self.turns[reviewed] += 1
        return reviewed

    def observe(self, evidence: Evidence) -> None:
        """Updates the belief, and the weights if the share of extreme rewards has changed."""
        super().observe(evidence)
        if not np.array_equal(self._extreme_rows(), self._extreme):
            self._tabulate()

    def add_tasks(self, features: TaskFeatures) -> None:
        """Adds tasks, which start at a random phase of their group's current turn, with no visits to catch up on.

        Args:
            features: of the whole pool; its first tasks are those known before, in the same order.

        Raises:
            TypeError: the belief cannot add tasks.
            ValueError: there are fewer tasks than before, or the belief refuses the new ones.
        """
        old = self.num_tasks
        super().add_tasks(features)
        self._tabulate()
        now = np.full(len(features.group_names), np.inf)  # smallest log(turns/weight) of each group
        np.minimum.at(now, self.group_codes[:old], self._keys(slice(0, old)))
        now[np.isinf(now)] = now.min()
        self.turns = np.concatenate([self.turns, np.ones(self.num_tasks - old, dtype=np.float32)])
        new = slice(old, self.num_tasks)
        begun = np.exp(now[self.group_codes[new]] - self._keys(new))  # their keys are still those of one turn
        self.turns[new] = begun + self._first_turns(self.num_tasks - old)

    def state_dict(self) -> dict[str, Any]:
        """Adds the turns."""
        return super().state_dict() | {"turns": self.turns.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, rules, belief and turns.

        Raises:
            ValueError: the state was saved with another selector, pool or number of quotas.
        """
        super().load_state_dict(state)
        self.turns = np.array(state["turns"], dtype=np.float32)
        self._tabulate()


@lru_cache(maxsize=EXTREME_STEPS + 1)
def _mixed_over_logits(rollouts: int, extreme_share: float) -> tuple[FloatArray, FloatArray]:
    """`mixed_probability` over the grid of logits; it takes 25 ms, and the share changes at nearly every step."""
    return mixed_probability(*logit_grid(), rollouts, extreme_share)
