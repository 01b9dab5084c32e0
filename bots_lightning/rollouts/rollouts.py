"""What comes out of a rollout engine."""

# Shapes: P prompts, G completions per prompt, R = P·G rows, L prompt tokens, T completion tokens.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def completion_mask(completion_ids: Tensor, stop_token_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Which tokens belong to each completion, by the position of its first stop token.

    The pad token plays no part: it may equal a stop token.

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
    """Completions of P prompts, G each; row p·G + j is completion j of prompt p.

    Attributes:
        prompt_ids: (R, L) int64, padded on the left.
        prompt_mask: (R, L) bool, True on the prompt's own tokens.
        completion_ids: (R, T) int64, padded on the right; the stop token is kept.
        completion_mask: (R, T) bool, True up to and including the stop token.
        finished: (R,) bool, False where the completion was cut at the length limit.
        policy_version: how many updates the policy had seen.
        logprobs: (R, T) float32 log-probabilities under the sampling distribution, if the engine knows them.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    finished: Tensor
    policy_version: int
    logprobs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.completion_ids)

    @property
    def lengths(self) -> Tensor:
        """(R,) completion tokens of each row, stop token included."""
        return self.completion_mask.sum(dim=1)

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
        )
