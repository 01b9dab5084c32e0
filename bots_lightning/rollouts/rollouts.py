"""Rollouts: what an engine returns."""

# Shapes: R rows, those of a prompt contiguous; L prompt tokens, T completion tokens.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def completion_mask(completion_ids: Tensor, stop_token_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which tokens belong to each completion, by the position of its first stop token.

    The pad token does not matter: it may equal a stop token.

    Args:
        completion_ids: (R, T) int.
        stop_token_ids: the tokens that end a completion; several are usual.

    Returns:
        mask (R, T) bool, True up to and including the first stop token; finished (R,) bool, False where the
        completion was cut at T tokens.
    """
    stops = torch.isin(completion_ids, torch.tensor(list(stop_token_ids), device=completion_ids.device))
    mask = stops.cumsum(dim=1) - stops.long() == 0
    return mask, stops.any(dim=1)


@dataclass(frozen=True)
class Rollouts:
    """Completions of prompts, one a row; those of a prompt follow each other.

    A completion may hold tokens that the policy did not sample, such as the answers of tools. They are part of the
    completion, which the policy has read; what is learned from is `action_mask`.

    Attributes:
        prompt_ids: (R, L) int64, padded on the left.
        prompt_mask: (R, L) bool, True on the prompt's own tokens.
        completion_ids: (R, T) int64, padded on the right; the stop token is kept.
        completion_mask: (R, T) bool, True up to and including the stop token.
        finished: (R,) bool, False where the completion was cut at the length limit.
        policy_version: how many updates the policy had seen; of several policies, the oldest.
        logprobs: (R, T) float32 log-probabilities under the sampling distribution, if the engine knows them or they
            have been recorded; NaN where they are not known.
        action_mask: (R, T) bool, True on the tokens that the policy sampled; all of the completion's by default.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    finished: Tensor
    policy_version: int
    logprobs: Tensor | None = None
    action_mask: Tensor = field(default=None)  # type: ignore[assignment] # never None once it is made

    def __post_init__(self) -> None:
        if self.action_mask is None:
            object.__setattr__(self, "action_mask", self.completion_mask)

    def __len__(self) -> int:
        return len(self.completion_ids)

    @property
    def lengths(self) -> Tensor:
        """(R,) completion tokens of each row, stop token included."""
        return self.completion_mask.sum(dim=1)

    @property
    def total_lengths(self) -> Tensor:
        """(R,) tokens of each row, prompt included."""
        return self.prompt_mask.sum(dim=1) + self.lengths

    def completion_lists(self) -> list[list[int]]:
        """The completion tokens of each of the R rows, stop token included."""
        ids, mask = self.completion_ids.cpu(), self.completion_mask.cpu()
        return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]

    def rows(self, rows: Tensor) -> Rollouts:
        """The given rows, trimmed to their longest prompt and completion."""
        prompt = int(self.prompt_mask[rows].sum(dim=1).max())
        length = max(1, int(self.completion_mask[rows].sum(dim=1).max()))
        start = self.prompt_ids.shape[1] - prompt
        return Rollouts(
            self.prompt_ids[rows, start:],
            self.prompt_mask[rows, start:],
            self.completion_ids[rows, :length],
            self.completion_mask[rows, :length],
            self.finished[rows],
            self.policy_version,
            None if self.logprobs is None else self.logprobs[rows, :length],
            self.action_mask[rows, :length],
        )

    def to(self, device: torch.device) -> Rollouts:
        """A copy on another device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)}
        return replace(self, **moved)


def concatenate(batches: Sequence[Rollouts], pad_token_id: int) -> Rollouts:
    """The rows of all batches, prompts padded on the left and completions on the right to the widest.

    Args:
        batches: one or more.
        pad_token_id: fills token ids; masks are filled with False, log-probabilities that are not known with NaN.
    """
    if len(batches) == 1:
        return batches[0]
    prompt = max(batch.prompt_ids.shape[1] for batch in batches)
    length = max(batch.completion_ids.shape[1] for batch in batches)

    def left(tensor: Tensor, value: int) -> Tensor:
        return pad(tensor, (prompt - tensor.shape[1], 0), value=value)

    def right(tensor: Tensor, value: float) -> Tensor:
        return pad(tensor, (0, length - tensor.shape[1]), value=value)

    known = any(batch.logprobs is not None for batch in batches)
    return Rollouts(
        torch.cat([left(batch.prompt_ids, pad_token_id) for batch in batches]),
        torch.cat([left(batch.prompt_mask, False) for batch in batches]),
        torch.cat([right(batch.completion_ids, pad_token_id) for batch in batches]),
        torch.cat([right(batch.completion_mask, False) for batch in batches]),
        torch.cat([batch.finished for batch in batches]),
        min(batch.policy_version for batch in batches),
        torch.cat([right(_logprobs_or_nan(batch), torch.nan) for batch in batches]) if known else None,
        torch.cat([right(batch.action_mask, False) for batch in batches]),
    )


def _logprobs_or_nan(rollouts: Rollouts) -> Tensor:
    if rollouts.logprobs is not None:
        return rollouts.logprobs
    return torch.full(rollouts.completion_ids.shape, torch.nan, device=rollouts.completion_ids.device)
