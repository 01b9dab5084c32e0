"""Log-probabilities of whole batches of rollouts, written down before an update changes the policy."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import Rollouts


@torch.no_grad()
def policy_logprobs(
    model: nn.Module, rollouts: Rollouts, temperature: float = 1.0, max_tokens: int | None = None
) -> Tensor:
    """Log-probabilities of whole batches under a policy, without gradient.

    Args:
        model: the policy.
        rollouts: R rows.
        temperature: as in `completion_logprobs`.
        max_tokens: as in `microbatches`.

    Returns:
        (R, T) float32, NaN outside of the completions.
    """
    found = torch.full(rollouts.completion_ids.shape, torch.nan, device=rollouts.completion_ids.device)
    for rows in microbatches(rollouts.total_lengths, max_tokens):
        logprobs, _ = completion_logprobs(model, rollouts.rows(rows), temperature)
        found[rows, : logprobs.shape[1]] = logprobs.to(found.dtype)
    return found.masked_fill(~rollouts.completion_mask, torch.nan)


def record_logprobs(
    model: nn.Module, rollouts: Rollouts, temperature: float = 1.0, max_tokens: int | None = None
) -> Rollouts:
    """Records log-probabilities with rollouts of the present policy, for an update that comes after others.

    Args:
        model: the policy that sampled them.
        rollouts: R rows.
        temperature: as in `completion_logprobs`.
        max_tokens: as in `microbatches`.

    Returns:
        the same rows; what was recorded already stays.
    """
    present = policy_logprobs(model, rollouts, temperature, max_tokens)
    return replace(rollouts, logprobs=recorded_or_present(rollouts, present))


def recorded_or_present(rollouts: Rollouts, present: Tensor) -> Tensor:
    """Log-probabilities under the policy that sampled: the recorded ones; where there are none, the present.

    Args:
        rollouts: R rows, with recorded log-probabilities or without.
        present: (R, T) float, log-probabilities under the present policy.

    Returns:
        (R, T) float.
    """
    if rollouts.logprobs is None:
        return present
    return torch.where(rollouts.logprobs.isnan(), present, rollouts.logprobs)


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
    ascending, groups, start = lengths[order].tolist(), [], 0
    for end, length in enumerate(ascending):
        if end > start and (end - start + 1) * length > max_tokens:
            groups.append(order[start:end])
            start = end
    return [*groups, order[start:]]
