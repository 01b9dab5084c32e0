"""Rows of unequal length as one tensor: prompts padded on the left, completions on the right."""

# Shapes: P prompts, R rows, L prompt tokens, T completion tokens.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bots_lightning.rollouts.engine import GenerationRequest
from bots_lightning.rollouts.segments import groups_of_rows


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token lists as one (P, L) int64 tensor, padded on the left, with its (P, L) bool mask."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = True
    return ids.to(device), mask.to(device)


def padded_prompts(request: GenerationRequest) -> tuple[Tensor, Tensor]:
    """The prompt of each row: (R, L) int64, padded on the left, and its (R, L) bool mask; on the model's device."""
    device = request.model.device
    ids, mask = pad_left(request.prompts, request.sampling.pad_token_id, device)
    rows = groups_of_rows(request.counts, device)
    return ids[rows], mask[rows]


def stack_right_padded(blocks: Sequence[Tensor], pad_token_id: int) -> Tensor:
    """Blocks of rows, each (r, t) int64, one below the other as (R, T); T is the largest t."""
    width = max(block.shape[1] for block in blocks)
    return torch.cat([torch.nn.functional.pad(b, (0, width - b.shape[1]), value=pad_token_id) for b in blocks])
