"""Whether all ranks hold the same weights, bit for bit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size of an element
CHUNK = 2**24  # elements that are summed at a time, as int64


def differing_weights(weights: Iterable[tuple[str, Tensor]]) -> str | None:
    """Compares the weights of all ranks, which call it together.

    Args:
        weights: by name; gathered, on any device.

    Returns:
        which rank differs from most others in which weights; None if all agree.
    """
    names, found = [], []
    for name, weight in weights:
        names.append(name)
        found.append(digest(weight))
    mine = torch.stack(found).tolist() if found else []
    digests = _of_all_ranks(hashlib.sha256(repr((names, mine)).encode()).hexdigest())
    if len(set(digests)) == 1:
        return None
    of_ranks = _of_all_ranks(dict(zip(names, mine, strict=True)))
    odd = {name: _odd_ranks([of_rank.get(name) for of_rank in of_ranks]) for name in names}
    differing = [name for name in names if odd[name]]
    if not differing:
        return "they train different weights"
    ranks = ", ".join(f"rank {rank}" for rank in odd[differing[0]])
    return f"{ranks}: {len(differing)} of {len(names)} weights differ, first {differing[0]}"


def digest(weight: Tensor) -> Tensor:
    """() int64, the sum of the bit patterns of all elements: it changes where a single element does."""
    bits = weight.detach().contiguous().view(-1).view(BITS[weight.element_size()])
    return torch.stack([chunk.sum(dtype=torch.int64) for chunk in bits.split(CHUNK)]).sum()


def _odd_ranks(digests: list[int | None]) -> list[int]:
    """Ranks whose digest is not the most common one; of two that differ, the second."""
    usual = Counter(digests).most_common(1)[0][0]
    return [rank for rank, of_rank in enumerate(digests) if of_rank != usual]


def _of_all_ranks(mine: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found
