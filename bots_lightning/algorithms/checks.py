"""What a run is refused for before it starts, because it would fail or go wrong silently hours later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from bots_lightning.data import TaskDataModule
from bots_lightning.strategies import OnlineStrategy


def check_trainer(trainer: Any) -> None:
    """Refuses trainer options under which learning online is wrong.

    Raises:
        ValueError: names the option and what to use.
    """
    if not isinstance(trainer.datamodule, TaskDataModule):
        raise ValueError("training needs a TaskDataModule; pass Trainer.fit(module, datamodule=TaskDataModule(…)).")
    if trainer.world_size > 1 and not isinstance(trainer.strategy, OnlineStrategy):
        raise ValueError(
            f"the run has {trainer.world_size} processes under {type(trainer.strategy).__name__}, which expects one "
            "backward pass per step. Stack a config of configs/strategies, or set trainer.devices=1."
        )
    if trainer.precision not in ("32-true", "bf16-mixed"):
        raise ValueError(
            f"trainer.precision={trainer.precision}; expected 32-true or bf16-mixed. With 16-mixed, clipping would see "
            "scaled gradients; with a half-precision model, updates are lost to rounding."
        )
    if trainer.overfit_batches:
        raise ValueError(
            "trainer.overfit_batches replaces the selector by a fixed sampler. Remove it; for a small fixed set of "
            "tasks use a source with `limit` and UniformSelector."
        )


def check_ranks_agree(fingerprint: Callable[[], str]) -> None:
    """Compares what all ranks believe, if there are several.

    Args:
        fingerprint: a digest of this rank's state.

    Raises:
        RuntimeError: they differ; draws would, from here on.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, fingerprint())
    if len(set(found)) > 1:
        listed = ", ".join(f"rank {rank}: {digest}" for rank, digest in enumerate(found))
        raise RuntimeError(
            f"the ranks no longer hold the same selector state ({listed}), so that they would draw different tasks. "
            "A selector must draw from its own generator alone; resume from the last checkpoint."
        )
