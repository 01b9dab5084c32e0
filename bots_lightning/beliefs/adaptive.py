"""Forgetting and implicit weight chosen online, by how well each pair has predicted the evidence."""

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
from bots_lightning.beliefs.dispersion import RewardDispersion
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.implicit import ReferenceInterpolation
from bots_lightning.options import check_numbers


class AdaptiveBetaBelief(Belief):
    """A grid of `BetaBelief`s with different λ and ρ; the one that has predicted the evidence best is active.

        L_j ← memory L_j + Σ log P_j(s | n) over a step's tasks, before they are observed;   j* = argmax L_j

    All members observe all evidence; the one with the largest prequential log predictive L_j answers. The published
    method (BOTS, arXiv:2510.26374) leaves λ and ρ to the user and names their adaptation as future work. On recorded
    runs the result hardly differs from the default pair. Each member takes some 22 bytes per task.

    Args:
        forgetting: candidate values of λ.
        implicit_weight: candidate values of ρ; without `implicit` it has no effect, and one value is enough.
        memory: factor by which scores decay at each step; 0.98 looks back about 50 steps.
        prior: (α0, β0).
        implicit: predicts the pass rates of tasks that are not in a step; None uses direct evidence only.

    Raises:
        ValueError: an option is out of range, or a list of candidates is empty.
    """

    def __init__(
        self,
        forgetting: Sequence[float] = (0.02, 0.05, 0.1, 0.2),
        implicit_weight: Sequence[float] = (0.0, 0.05, 0.1, 0.3),
        memory: float = 0.98,
        prior: tuple[float, float] = (1.0, 1.0),
        implicit: ReferenceInterpolation | None = None,
    ) -> None:
        check_numbers(0, above=True, high=1, memory=memory)
        pairs = list(product(forgetting, implicit_weight))
        if not pairs:
            raise ValueError("forgetting and implicit_weight need at least one value each.")
        self.memory = memory
        self.members = [BetaBelief(rate, weight, prior, deepcopy(implicit)) for rate, weight in pairs]
        self._middle = len(forgetting) // 2 * len(implicit_weight) + len(implicit_weight) // 2

    def setup(self, features: TaskFeatures) -> None:
        """Starts every member from the prior; until there is evidence, the middle of the grid is active."""
        for member in self.members:
            member.setup(features)
        self.scores = np.zeros(len(self.members))
        self.chosen = self._middle

    @property
    def active(self) -> BetaBelief:
        """The member with the best score."""
        return self.members[self.chosen]

    def observe(self, evidence: Evidence) -> None:
        """Scores every member's prediction of the evidence, then updates all members by it."""
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        self.scores *= self.memory
        for at, member in enumerate(self.members):
            phi = member.reward_dispersion.dispersion[member.group_codes[evidence.indices]]
            counts = evidence.successes / phi, evidence.counts / phi
            self.scores[at] += beta_binomial_log_pmf(*counts, *member.concentrations(evidence.indices)).sum()
            member.observe(evidence)
        self.chosen = int(np.argmax(self.scores))

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """(α, β) of the active member, each (N,), or of the tasks in `where`."""
        return self.active.concentrations(where)

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """p̂ ~ Beta(α, β) for every task, shape (N,)."""
        return self.active.sample(rng)

    def mean(self) -> FloatArray:
        """α / (α + β) of every task, shape (N,)."""
        return self.active.mean()

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """(α, β) of the cells of a `BetaBelief`."""
        return self.active.grid()

    def cells(self, where: slice) -> npt.NDArray[np.int32]:
        """The cell of each task's posterior, by the active member."""
        return self.active.cells(where)

    @property
    def reward_dispersion(self) -> RewardDispersion:
        """Dispersion of each group's rewards; the same for all members."""
        return self.active.reward_dispersion

    def add_tasks(self, features: TaskFeatures) -> None:
        """Adds the new tasks to every member."""
        for member in self.members:
            member.add_tasks(features)

    def metrics(self) -> dict[str, float]:
        """The active member's metrics, and its λ and ρ."""
        rates = {"belief/forgetting": self.active.forgetting, "belief/implicit_weight": self.active.implicit_weight}
        return self.active.metrics() | rates

    def state_dict(self) -> State:
        """All members and their scores."""
        members = {str(at): member.state_dict() for at, member in enumerate(self.members)}
        return {"members": members, "scores": self.scores.copy(), "chosen": self.chosen}

    def load_state_dict(self, state: State) -> None:
        """Restores all members and their scores.

        Raises:
            ValueError: the saved grid has another size.
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
