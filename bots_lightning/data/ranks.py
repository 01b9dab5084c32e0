"""Which of how many ranks this process is, and what the others hold."""

# Shapes: W ranks.

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def world_size() -> int:
    """W; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place in 0 … W − 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def check_shares(batch_size: int) -> None:
    """Checks that the ranks can share a batch.

    Args:
        batch_size: B.

    Raises:
        ValueError: B is no multiple of W.
    """
    if batch_size % world_size():
        raise ValueError(
            f"batch_size={batch_size} tasks do not divide evenly over {world_size()} ranks; choose a multiple of "
            f"{world_size()}."
        )


def gathered(mine: Any) -> list[Any]:
    """What each of several ranks gives, in their order; all must call it.

    Args:
        mine: anything that can be pickled.

    Returns:
        W objects, equal on all ranks.
    """
    everyones: list[Any] = [None] * world_size()
    dist.all_gather_object(everyones, mine)
    return everyones
