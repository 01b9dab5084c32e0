"""Fair shares: tasks take turns, the oftener the likelier their groups are to teach something."""

# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import AbilityBelief, Evidence, LogitTable, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.selector import Indices, TaskSelector
from bots_lightning.selection.thompson import smallest


def beta_moment(alpha: FloatArray, beta: FloatArray, i: int, j: int) -> FloatArray:
    """E[p^i (1−p)^j] = (α)_i (β)_j / (α+β)_(i+j) for p ~ Beta(α, β); (x)_n is the rising factorial.

    Args:
        alpha: (...) α.
        beta: (...) β.
        i: exponent of p.
        j: exponent of 1 − p.
    """
    moment = np.ones_like(alpha)
    for n in range(i):  # factor by factor, as the factorials overflow
        moment = moment * (alpha + n) / (alpha + beta + n)
    for n in range(j):
        moment = moment * (beta + n) / (alpha + beta + i + n)
    return moment


def mixed_probability(alpha: FloatArray, beta: FloatArray, rollouts: int) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of U_G(p) = 1 − p^G − (1−p)^G, the probability that a group's rewards differ.

        E[U_G] = 1 − (α)_G/(α+β)_G − (β)_G/(α+β)_G

    The deviation is what there is to learn about the task.

    Args:
        alpha: (...) α of each task's Beta.
        beta: (...) β.
        rollouts: G.
    """
    g = rollouts
    solved, failed = beta_moment(alpha, beta, g, 0), beta_moment(alpha, beta, 0, g)
    mean = 1 - solved - failed
    squares = beta_moment(alpha, beta, 2 * g, 0) + beta_moment(alpha, beta, 0, 2 * g)
    equal_variance = squares + 2 * beta_moment(alpha, beta, g, g) - (solved + failed) ** 2
    return mean, np.sqrt(np.maximum(equal_variance, 0))


class FairShareSelector(TaskSelector):
    """Weighted fair queueing over tasks: the B smallest turns/weight, weight = exp((E[U_G] + κ sd[U_G])/τ).

    Of all ways to spread visits c over the pool, c ∝ exp(U/τ) maximizes Σ c U + τ·entropy(c): the most mixed groups
    at a given diversity. Taking the smallest turns/weight (Demers, Keshav & Shenker 1989, weights that change) keeps
    the counts at those shares, where sampling from them would add noise. Every task starts with a turn count uniform
    in (0, first_turn), a random phase: of tasks that deserve a fraction of a visit, a fraction is visited. Only
    `setup` draws from the generator. A choice counts as a turn whether or not it brings evidence.

    Args:
        belief: what is known of each task, as mean and variance of the logit.
        temperature: τ; larger spreads visits over more tasks, smaller concentrates them on the likeliest.
        optimism: κ; larger visits uncertain tasks earlier.
        first_turn: 1 gives untried tasks exactly their share; smaller brings first visits forward.
        num_generations: G assumed for the first selection; after that it is the largest count of the last evidence.
    """

    def __init__(
        self,
        belief: AbilityBelief,
        temperature: float = 0.12,
        optimism: float = 0.5,
        first_turn: float = 0.3,
        num_generations: int = 8,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}; expected a positive number.")
        if not optimism >= 0:
            raise ValueError(f"optimism={optimism}; expected a number >= 0.")
        if not 0 < first_turn <= 1:
            raise ValueError(f"first_turn={first_turn}; expected a number in (0, 1].")
        if num_generations < 2:
            raise ValueError(f"num_generations={num_generations}; rewards of fewer than 2 rollouts cannot differ.")
        self.belief = belief
        self.temperature = temperature
        self.optimism = optimism
        self.first_turn = first_turn
        self.num_generations = num_generations

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts the belief from its prior, every task at a random point of its first turn."""
        super().setup(features, seed)
        self.belief.setup(features)
        self.turns = self.first_turn * (1 - self.rng.random(self.num_tasks))
        self._use_group_size(self.num_generations)

    def _use_group_size(self, rollouts: int) -> None:
        """Tabulates the weights for groups of G rollouts."""
        self._group_size = rollouts
        self._log_weight = LogitTable(self._log_weight_of)

    def _log_weight_of(self, alpha: FloatArray, beta: FloatArray) -> FloatArray:
        """(E[U] + κ sd[U])/τ, the shape of α and β."""
        mean, deviation = mixed_probability(alpha, beta, self._group_size)
        return (mean + self.optimism * deviation) / self.temperature

    def select(self, batch_size: int) -> Indices:
        """(B,) the tasks most due, in order; each has then had a turn."""
        self.check_batch_size(batch_size)
        due = smallest(np.log(self.turns) - self._log_weight(*self.belief.predict()), batch_size)
        self.turns[due] += 1
        return due

    def observe(self, evidence: Evidence) -> None:
        """Updates the belief, and the group size if the step had another one."""
        rollouts = int(evidence.counts.max(initial=0))
        if rollouts >= 2 and rollouts != self._group_size:
            self._use_group_size(rollouts)
        self.belief.observe(evidence)

    def metrics(self) -> dict[str, float]:
        """The belief's metrics."""
        return self.belief.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Adds the turns, the group size and the belief's state."""
        own = {"turns": self.turns.copy(), "group_size": self._group_size, "belief": self.belief.state_dict()}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, turns and belief."""
        super().load_state_dict(state)
        self.turns = np.array(state["turns"], dtype=np.float64)
        if int(state["group_size"]) != self._group_size:
            self._use_group_size(int(state["group_size"]))
        self.belief.load_state_dict(state["belief"])
