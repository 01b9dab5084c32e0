"""Log-probabilities of completions under the policy."""

# Shapes: R rows, L prompt tokens, T completion tokens, V vocabulary.

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from bots_lightning.rollouts import Rollouts


def completion_logprobs(model: nn.Module, rollouts: Rollouts, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of every completion token, and the entropy of the distribution it was drawn from.

    Args:
        model: a causal language model of transformers.
        rollouts: R rows of prompts and completions.
        temperature: divides the logits, as it did when the completions were sampled.

    Returns:
        logprobs (R, T) float32 with gradient, and entropy (R, T) float32 without; values outside
        `rollouts.completion_mask` mean nothing.
    """
    length = rollouts.completion_ids.shape[1]
    ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1)
    mask = torch.cat([rollouts.prompt_mask, rollouts.completion_mask], dim=1).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    outputs = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=length + 1
    )
    log_softmax = (outputs.logits[:, :-1].float() / temperature).log_softmax(dim=-1)
    logprobs = log_softmax.gather(-1, rollouts.completion_ids.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
    return logprobs, entropy


def sampling_logprobs(rollouts: Rollouts, present: Tensor) -> Tensor:
    """(R, T) log-probabilities under the policy that sampled: the recorded ones; where there are none, the present.

    Args:
        rollouts: R rows, with recorded log-probabilities or without.
        present: (R, T) float, log-probabilities under the present policy.
    """
    if rollouts.logprobs is None:
        return present
    return torch.where(rollouts.logprobs.isnan(), present, rollouts.logprobs)


@torch.no_grad()
def record_logprobs(
    model: nn.Module, rollouts: Rollouts, temperature: float = 1.0, max_tokens: int | None = None
) -> Rollouts:
    """Rollouts of the present policy with their log-probabilities, for an update that comes after others.

    Args:
        model: the policy that sampled them.
        rollouts: R rows; what is recorded already stays.
        temperature: as in `completion_logprobs`.
        max_tokens: as in `microbatches`.
    """
    present = torch.full(rollouts.completion_ids.shape, torch.nan, device=rollouts.completion_ids.device)
    for rows in microbatches(rollouts.prompt_mask.sum(dim=1) + rollouts.lengths, max_tokens):
        logprobs, _ = completion_logprobs(model, rollouts.rows(rows), temperature)
        present[rows, : logprobs.shape[1]] = logprobs
    return replace(rollouts, logprobs=sampling_logprobs(rollouts, present))


def microbatches(lengths: Tensor, max_tokens: int | None) -> list[Tensor]:
    """Rows grouped so that rows × longest row stays within a token budget, shortest rows first.

    Args:
        lengths: (R,) tokens of each row.
        max_tokens: budget of one group; a row longer than it stands alone. None puts all rows into one group.

    Returns:
        row indices of each group; together they cover every row once.
    """
    if max_tokens is None:
        return [torch.arange(len(lengths), device=lengths.device)]
    order = torch.argsort(lengths, stable=True)
    groups, start = [], 0
    for end, row in enumerate(order.tolist()):
        if end > start and (end - start + 1) * int(lengths[row]) > max_tokens:
            groups.append(order[start:end])
            start = end
    return [*groups, order[start:]]
