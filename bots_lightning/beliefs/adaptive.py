"""Forgetting and implicit weight chosen while the run goes on, by how well each would have foretold it."""

# Shapes: N tasks in the pool, M members of the grid.

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import product

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import ALL, Belief, FloatArray, State, TaskFeatures, Where
from bots_lightning.beliefs.beta import BetaBelief
from bots_lightning.beliefs.densities import beta_binomial_log_pmf
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.implicit import ReferenceInterpolation
from bots_lightning.beliefs.reward_shape import RewardShape


class AdaptiveBetaBelief(Belief):
    """A `BetaBelief` whose λ and ρ are those of a small grid that have forecast the evidence best so far.

        L_j ← memory L_j + Σ log P_j(s | n) over a step's tasks, before they are observed;   j* = argmax L_j

    All members see all evidence; the one with the largest prequential log predictive speaks. The published method
    leaves λ and ρ to the user and names this as future work (BOTS, arXiv:2510.26374). On recorded runs it hardly
    differs from the default pair. Each member takes some 22 bytes a task.

    Args:
        forgetting: the values of λ.
        implicit_weight: the values of ρ; with no `implicit`, it has no effect and one value is enough.
        memory: how much of the score is kept at each step; 0.98 looks back 50 steps.
        prior: (α0, β0).
        implicit: predicts the pass rates of tasks that were not tried; none uses direct evidence only.
    """

    def __init__(
        self,
        forgetting: Sequence[float] = (0.02, 0.05, 0.1, 0.2),
        implicit_weight: Sequence[float] = (0.0, 0.05, 0.1, 0.3),
        memory: float = 0.98,
        prior: tuple[float, float] = (1.0, 1.0),
        implicit: ReferenceInterpolation | None = None,
    ) -> None:
        if not 0 < memory <= 1:
            raise ValueError(f"memory={memory}; expected a number in (0, 1].")
        pairs = list(product(forgetting, implicit_weight))
        if not pairs:
            raise ValueError("forgetting and implicit_weight need at least one value each.")
        self.memory = memory
        self.members = [BetaBelief(rate, weight, prior, deepcopy(implicit)) for rate, weight in pairs]
        self._middle = len(forgetting) // 2 * len(implicit_weight) + len(implicit_weight) // 2

    def setup(self, features: TaskFeatures) -> None:
        """Every member starts from the prior; until there is evidence, the middle of the grid speaks."""
        for member in self.members:
            member.setup(features)
        self.scores = np.zeros(len(self.members))
        self.chosen = self._middle

    @property
    def active(self) -> BetaBelief:
        """The member that speaks."""
        return self.members[self.chosen]

    def observe(self, evidence: Evidence) -> None:
        """Scores every member's forecast of the evidence, then lets all of them see it."""
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        self.scores *= self.memory
        for at, member in enumerate(self.members):
            phi = member.reward_shape.dispersion[member.group_codes[evidence.indices]]
            counts = evidence.successes / phi, evidence.counts / phi
            self.scores[at] += beta_binomial_log_pmf(*counts, *member.concentrations(evidence.indices)).sum()
            member.observe(evidence)
        self.chosen = int(np.argmax(self.scores))

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """(α, β) of the member that speaks."""
        return self.active.concentrations(where)

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """p̂ ~ Beta(α, β) for every task, shape (N,)."""
        return self.active.sample(rng)

    def mean(self) -> FloatArray:
        """α / (α + β), shape (N,)."""
        return self.active.mean()

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """The cells of a `BetaBelief`."""
        return self.active.grid()

    def cells(self, where: slice) -> npt.NDArray[np.int32]:
        """The cell of each task."""
        return self.active.cells(where)

    @property
    def reward_shape(self) -> RewardShape:
        """Of each group; the same for all members."""
        return self.active.reward_shape

    def add_tasks(self, features: TaskFeatures) -> None:
        """Every member takes the new tasks in."""
        for member in self.members:
            member.add_tasks(features)

    def metrics(self) -> dict[str, float]:
        """Adds λ and ρ of the member that speaks."""
        rates = {"belief/forgetting": self.active.forgetting, "belief/implicit_weight": self.active.implicit_weight}
        return self.active.metrics() | rates

    def state_dict(self) -> State:
        """All members and their scores."""
        members = {str(at): member.state_dict() for at, member in enumerate(self.members)}
        return {"members": members, "scores": self.scores.copy(), "chosen": self.chosen}

    def load_state_dict(self, state: State) -> None:
        """Takes over such a state.

        Raises:
            ValueError: the grid has another size.
        """
        if len(state["members"]) != len(self.members):
            raise ValueError(
                f"the saved belief has a grid of {len(state['members'])} pairs, this one of {len(self.members)}. "
                "Resume with the `forgetting` and `implicit_weight` of the checkpoint's config."
            )
        for at, member in enumerate(self.members):
            member.load_state_dict(state["members"][str(at)])
        self.scores = np.array(state["scores"], dtype=np.float64)
        self.chosen = int(state["chosen"])
