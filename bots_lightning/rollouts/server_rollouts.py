"""Completions of servers as rollouts."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bots_lightning.rollouts.engine import GenerationRequest
from bots_lightning.rollouts.padding import padded_prompts
from bots_lightning.rollouts.rollouts import Rollouts, completion_mask
from bots_lightning.rollouts.server_dialect import Completion


def rollouts_of(request: GenerationRequest, completions: Sequence[Completion], logprobs: bool) -> Rollouts:
    """The R rows of a request, on the model's device.

    Args:
        request: what was asked for.
        completions: R, in order; what they hold beyond their end is dropped.
        logprobs: whether to keep those of the servers; greedy tokens have 0.
    """
    sampling = request.sampling
    limit, stops, pad = sampling.max_completion_length, sampling.stop_token_ids, sampling.pad_token_id
    tokens = _padded([torch.tensor(each.tokens[:limit]) for each in completions], pad)
    given = _padded([torch.ones(len(each.tokens[:limit]), dtype=torch.bool) for each in completions], False)
    before_stop, _ = completion_mask(tokens, stops)
    mask = given & before_stop
    finished = (mask & torch.isin(tokens, torch.tensor(stops))).any(dim=1)
    length = int(mask.sum(dim=1).max())
    tokens, mask = tokens.masked_fill(~mask, pad)[:, :length], mask[:, :length]
    rollouts = Rollouts(*padded_prompts(request), tokens, mask, finished, request.policy_version)
    if logprobs:
        rollouts = replace(rollouts, logprobs=_logprobs(completions, mask, greedy=sampling.temperature == 0))
    return rollouts.to(request.model.device)


def _logprobs(completions: Sequence[Completion], mask: Tensor, greedy: bool) -> Tensor:
    """(R, T) float32, NaN outside of the mask (R, T)."""
    length = mask.shape[1]
    rows = [torch.tensor(each.logprobs[:length], dtype=torch.float32) for each in completions]
    logprobs = torch.zeros(mask.shape) if greedy else _padded(rows, torch.nan)
    return logprobs.masked_fill(~mask, torch.nan)


def _padded(rows: list[Tensor], value: float) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
