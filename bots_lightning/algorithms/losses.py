"""Policy-gradient losses: tensors in, a scalar and its metrics out."""

# Shapes: R rows (completions), T completion tokens.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossOutputs:
    """A scalar to differentiate, and detached numbers to log."""

    loss: Tensor
    metrics: dict[str, Tensor]


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    num_rows: int | None = None,
) -> LossOutputs:
    """The clipped surrogate of GRPO (arXiv:2402.03300), mean over the tokens of a completion, then over completions.

        ρ_it = exp(log π(y_it) − log π_old(y_it))
        L = −1/R Σ_i 1/|y_i| Σ_t min(ρ_it A_i, clip(ρ_it, 1−ε, 1+ε_high) A_i)

    Args:
        logprobs: (R, T) float, log π of the completions' tokens; carries the gradient.
        old_logprobs: (R, T) float, log π_old of the same tokens.
        advantages: (R,) float.
        mask: (R, T) bool, True on the completions' own tokens. A row without any adds nothing.
        epsilon: lower clip.
        epsilon_high: upper clip, `epsilon` if not given (clip-higher of DAPO, arXiv:2503.14476).
        num_rows: R of the whole batch when this is a part of it, so that the parts' losses add up.

    Returns:
        the loss, and the shares of tokens clipped from below and above (sums over tokens, to be added up).
    """
    if logprobs.ndim != 2 or logprobs.shape != old_logprobs.shape or logprobs.shape != mask.shape:
        shapes = tuple(logprobs.shape), tuple(old_logprobs.shape), tuple(mask.shape)
        raise ValueError(f"logprobs, old_logprobs and mask have shapes {shapes}; expected three times (R, T).")
    if advantages.shape != logprobs.shape[:1]:
        raise ValueError(f"advantages have shape {tuple(advantages.shape)}; expected ({len(logprobs)},).")
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs)))
    advantage = advantages.unsqueeze(1)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    per_token = -torch.minimum(ratio * advantage, clipped * advantage) * mask
    per_row = per_token.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    low = (ratio < 1 - epsilon) & (advantage < 0) & mask
    high = (ratio > 1 + epsilon_high) & (advantage > 0) & mask
    metrics = {"clip_ratio/low_tokens": low.sum().detach(), "clip_ratio/high_tokens": high.sum().detach()}
    return LossOutputs(per_row.sum() / (num_rows or len(logprobs)), metrics)
