"""Groups of unequal size: R rows in K groups, by `group_of_row`."""

# Shapes: K groups, n_k rows in group k, N = max n_k, R = Σ n_k rows.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def groups_of_rows(counts: Sequence[int] | Tensor, device: torch.device | None = None) -> Tensor:
    """(R,) int64, the group of each row, where the rows of a group follow each other.

    Args:
        counts: (K,) n_k, rows of each group.
        device: of the result, by default that of `counts`.
    """
    sizes = torch.as_tensor(counts, dtype=torch.long, device=device)
    return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)


def by_group(values: Tensor, group_of_row: Tensor) -> Tensor:
    """The rows of each group side by side: (K, N) float, filled up with NaN on the right.

    Groups of one size are a plain reshape, to the bit.

    Args:
        values: (R,) float or bool; one per row.
        group_of_row: (R,) int64 in [0, K), in any order; every group has a row.
    """
    sizes = torch.bincount(group_of_row)
    filled = torch.full((len(sizes), int(sizes.max())), torch.nan, device=values.device, dtype=_float(values))
    filled[group_of_row, places_in_group(group_of_row)] = values.to(filled.dtype)
    return filled


def places_in_group(group_of_row: Tensor) -> Tensor:
    """(R,) int64, how many rows of the same group come before each row.

    Args:
        group_of_row: (R,) int64, in any order.
    """
    order = torch.argsort(group_of_row, stable=True)
    sizes = torch.bincount(group_of_row)
    starts = sizes.cumsum(0) - sizes
    places = torch.empty_like(group_of_row)
    places[order] = torch.arange(len(order), device=order.device) - starts[group_of_row[order]]
    return places


def _float(values: Tensor) -> torch.dtype:
    return values.dtype if values.is_floating_point() else torch.float32
