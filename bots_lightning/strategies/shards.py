"""Writes DeepSpeed's shards as a checkpoint folder, which gets its name when all of it has reached the disk."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn

from bots_lightning.checkpoints import (
    TAG,
    begin_folder,
    own_digests,
    put_in_place,
    sync,
    unfinished,
    write_manifest,
    write_state,
    writing,
)


def save_shards(
    strategy: DeepSpeedStrategy, stage: int, path: Path, checkpoint: dict[str, Any], shapes: Mapping[str, Sequence[int]]
) -> None:
    """Writes a checkpoint folder. All ranks call it together.

    Args:
        strategy: whose engine holds weights and optimizer.
        stage: of ZeRO.
        path: of the folder, the same on all ranks.
        checkpoint: the rest of the run's state.
        shapes: of the trained weights when gathered, by name; frozen weights are left out.

    Raises:
        CheckpointError: the disk is full, or fails.
    """
    folder = unfinished(path)
    assert strategy.lightning_module is not None
    with writing(path):
        if strategy.is_global_zero:
            write_state(begin_folder(path), checkpoint)
        strategy.barrier("begun")
        with _state_of(strategy.lightning_module, shapes):
            strategy.deepspeed_engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
        if strategy.local_rank == 0:
            sync(folder)  # on each node, what was written there
        strategy.barrier("written")
        digests = _digests(folder, strategy.global_rank, strategy.world_size)
        if strategy.is_global_zero:
            write_manifest(folder, stage, strategy.world_size, shapes, digests)
            put_in_place(path)
    strategy.barrier("in place")


def _digests(folder: Path, rank: int, world_size: int) -> dict[str, str]:
    """The checksums of all ranks' files, by path; each rank computes its own."""
    of_ranks: list[Any] = [None] * world_size
    dist.all_gather_object(of_ranks, own_digests(folder, rank, world_size))
    return {name: digest for of_rank in of_ranks for name, digest in of_rank.items()}


@contextmanager
def _state_of(module: nn.Module, kept: Container[str]) -> Iterator[None]:
    """Restricts the module's state to some names: DeepSpeed excludes a frozen weight under one of its names only."""

    def drop(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
        for name in [name for name in state if name not in kept]:
            del state[name]

    handle = module.register_state_dict_post_hook(drop)
    try:
        yield
    finally:
        handle.remove()
