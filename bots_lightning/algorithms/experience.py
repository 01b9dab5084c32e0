"""What an update learns from: rollouts, and what each of their tokens is worth."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bots_lightning.rollouts import Rollouts


@dataclass(frozen=True)
class Experience:
    """R rows of rollouts with advantages.

    Attributes:
        rollouts: R rows.
        mask: (R, T) bool, the tokens that are learned from.
        advantages: (R,) or (R, T) float.
        old_logprobs: (R, T) float, log-probabilities that ratios are taken to; None: the present ones, all ratios 1.
        ref_logprobs: (R, T) float, log-probabilities under the reference, if there is one.
        values: (R, T) float, the critic's estimates when the tokens were sampled, if there is one.
        returns: (R, T) float, what those should have been.
        sampling_logprobs: (R, T) float, log-probabilities under what sampled the tokens, if that may be another
            distribution than the policy's; NaN where it is not known.
    """

    rollouts: Rollouts
    mask: Tensor
    advantages: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None
    sampling_logprobs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rollouts)

    @property
    def lengths(self) -> Tensor:
        """(R,) tokens of each row, prompt included."""
        return self.rollouts.total_lengths

    def rows(self, rows: Tensor) -> Experience:
        """Takes some rows, trimmed to their longest prompt and completion.

        Args:
            rows: (N,) int64, their positions.

        Returns:
            N rows, in that order.
        """
        rollouts = self.rollouts.rows(rows)
        width = rollouts.completion_ids.shape[1]
        taken = {
            name: value[rows, :width] if value.ndim == 2 else value[rows]
            for name, value in vars(self).items()
            if torch.is_tensor(value)
        }
        return replace(self, rollouts=rollouts, **taken)

    def without_tokens(self) -> Experience:
        """Masks every token, so that loss and gradient are 0; the rows stay."""
        return replace(self, mask=torch.zeros_like(self.mask))

    def state_dict(self) -> dict[str, Any]:
        """All tensors by name, on the CPU."""
        everything = vars(self.rollouts) | {name: value for name, value in vars(self).items() if name != "rollouts"}
        return {name: value.detach().cpu() for name, value in everything.items() if torch.is_tensor(value)}
