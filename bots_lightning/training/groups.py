"""Groups of rollouts: what an iteration samples, and what its update learns from."""

# Shapes: B tasks, G rollouts per task, R = B·G rows.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bots_lightning.rewards import Outcomes
from bots_lightning.rollouts import Rollouts, concatenate
from bots_lightning.tasks import Task


@dataclass(frozen=True)
class Groups:
    """B groups of rollouts with their rewards.

    Attributes:
        rollouts: R = B·G rows.
        rewards: (B, G) float, NaN where there is none.
        iterations: (B,) int64, the iteration that scored each group; one that was rolled out ahead has been sampled by
            the policy before.
    """

    rollouts: Rollouts
    rewards: Tensor
    iterations: Tensor

    def __len__(self) -> int:
        return len(self.rewards)

    def take(self, groups: Tensor) -> Groups:
        """The given groups, (K,) int64 positions, at least one."""
        generations = self.rewards.shape[1]
        rows = groups.unsqueeze(1) * generations + torch.arange(generations, device=groups.device)
        return Groups(self.rollouts.rows(rows.flatten()), self.rewards[groups], self.iterations[groups])

    def to(self, device: torch.device) -> Groups:
        """The same on another device."""
        return Groups(self.rollouts.to(device), self.rewards.to(device), self.iterations.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only."""
        return vars(self) | {"rollouts": vars(self.rollouts).copy()}

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> Groups:
        """The groups of a checkpoint."""
        return Groups(Rollouts(**state["rollouts"]), state["rewards"], state["iterations"])

    @staticmethod
    def concatenate(parts: Sequence[Groups], pad_token_id: int) -> Groups:
        """The groups of all parts in order; a single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        return Groups(
            concatenate([part.rollouts for part in parts], pad_token_id),
            torch.cat([part.rewards for part in parts]),
            torch.cat([part.iterations for part in parts]),
        )


@dataclass(frozen=True)
class Attempt:
    """One batch of tasks, rolled out and scored on this rank.

    Attributes:
        rollouts: R rows.
        completions: R texts.
        scores: (F, B, G) float, what each reward function said.
        rewards: (B, G) float.
        evidence: (B, G) float in [0, 1], how far each completion solves its task, see `Scorer.evidence`.
        outcomes: how the completions were judged.
    """

    rollouts: Rollouts
    completions: list[str]
    scores: npt.NDArray[np.float64]
    rewards: npt.NDArray[np.float64]
    evidence: npt.NDArray[np.float64]
    outcomes: Outcomes


@dataclass
class Sampled:
    """All that one iteration has rolled out, also what it will not learn from.

    Attributes:
        tasks: of all rounds, one per group.
        completions: of all rounds, G per group.
        scores: (F, B, G) of each round, what each reward function said.
        evidence: (B, G) of each round.
        rounds: the groups of each round.
        outcomes: how all completions were judged, where a reward function counts that.
    """

    tasks: list[Task] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)
    scores: list[npt.NDArray[np.float64]] = field(default_factory=list)
    evidence: list[npt.NDArray[np.float64]] = field(default_factory=list)
    rounds: list[Groups] = field(default_factory=list)
    outcomes: Outcomes = field(default_factory=Outcomes)

    def add(self, tasks: list[Task], attempt: Attempt, groups: Groups) -> None:
        """One more round."""
        self.tasks += tasks
        self.completions += attempt.completions
        self.scores.append(attempt.scores)
        self.evidence.append(attempt.evidence)
        self.rounds.append(groups)
        self.outcomes += attempt.outcomes
