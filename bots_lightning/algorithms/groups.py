"""Groups of rollouts with their rewards: what an update learns from."""

# Shapes: K groups, n_k rows in group k, R = Σ n_k rows.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bots_lightning.rollouts import Rollouts, concatenate


@dataclass(frozen=True)
class RolloutGroups:
    """K groups of rollouts, which may differ in size; the rows of a group follow each other.

    Attributes:
        rollouts: R rows.
        rewards: (R,) float, NaN where there is none.
        group_of_row: (R,) int64, ascending from 0; every group has a row.
        iterations: (K,) int64, the iteration that scored each group; asynchronous rollouts have been sampled by the
            policy before.
        round_of_row: (R,) int64, the round of the step in which each row was sampled; 0 by default. Later rounds were
            asked for when the rewards of the earlier ones were known.
    """

    rollouts: Rollouts
    rewards: Tensor
    group_of_row: Tensor
    iterations: Tensor
    round_of_row: Tensor = field(default=None)  # type: ignore[assignment] # never None once it is made

    def __post_init__(self) -> None:
        if self.round_of_row is None:
            object.__setattr__(self, "round_of_row", torch.zeros_like(self.group_of_row))

    def __len__(self) -> int:
        return len(self.iterations)

    def take(self, groups: Tensor) -> RolloutGroups:
        """Takes some groups, with all of their rows.

        Args:
            groups: (K',) int64 positions, ascending, at least one.

        Returns:
            K' groups in their order here, numbered from 0; rows are trimmed to the longest of them.
        """
        rows = torch.isin(self.group_of_row, groups).nonzero().flatten()
        _, group_of_row = torch.unique_consecutive(self.group_of_row[rows], return_inverse=True)
        rewards, round_of_row = self.rewards[rows], self.round_of_row[rows]
        return RolloutGroups(self.rollouts.rows(rows), rewards, group_of_row, self.iterations[groups], round_of_row)

    def to(self, device: torch.device) -> RolloutGroups:
        """Copies the groups to another device."""
        tensors = self.rewards, self.group_of_row, self.iterations, self.round_of_row
        moved = (tensor.to(device) for tensor in tensors)
        return RolloutGroups(self.rollouts.to(device), *moved)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, for a checkpoint."""
        return vars(self) | {"rollouts": vars(self.rollouts).copy()}

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> RolloutGroups:
        """Restores the groups of a checkpoint.

        Args:
            state: what `state_dict` returned.
        """
        return RolloutGroups(**state | {"rollouts": Rollouts(**state["rollouts"])})

    @staticmethod
    def concatenate(batches: Sequence[RolloutGroups], pad_token_id: int) -> RolloutGroups:
        """Puts the groups of several batches one after the other.

        Args:
            batches: one or more.
            pad_token_id: fills token ids where batches differ in length.

        Returns:
            the groups of all batches in order; a single batch unchanged.
        """
        if len(batches) == 1:
            return batches[0]
        shifts = torch.tensor([len(batch) for batch in batches]).cumsum(0).tolist()
        numbered = [batch.group_of_row + shift for batch, shift in zip(batches, [0, *shifts], strict=False)]
        return RolloutGroups(
            concatenate([batch.rollouts for batch in batches], pad_token_id),
            torch.cat([batch.rewards for batch in batches]),
            torch.cat(numbered),
            torch.cat([batch.iterations for batch in batches]),
            torch.cat([batch.round_of_row for batch in batches]),
        )
