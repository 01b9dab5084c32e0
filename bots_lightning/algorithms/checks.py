"""What a run is refused for before it starts, because it would fail or go wrong silently hours later."""

from __future__ import annotations

from typing import Any

from bots_lightning.data import TaskDataModule


def check_trainer(trainer: Any) -> None:
    """Refuses trainer options under which learning online is wrong.

    Raises:
        ValueError: names the option and what to use.
    """
    if not isinstance(trainer.datamodule, TaskDataModule):
        raise ValueError("training needs a TaskDataModule; pass Trainer.fit(module, datamodule=TaskDataModule(…)).")
    if trainer.world_size > 1:
        raise ValueError(
            f"the run has {trainer.world_size} processes; training works in one. Set trainer.devices=1 and "
            "trainer.num_nodes=1."
        )
    if str(trainer.precision).startswith("16"):
        raise ValueError(
            f"trainer.precision={trainer.precision} scales gradients, and clipping would see the scaled ones. "
            "Use bf16-mixed or 32."
        )
    if trainer.overfit_batches:
        raise ValueError(
            "trainer.overfit_batches replaces the selector by a fixed sampler. Remove it; for a small fixed set of "
            "tasks use a source with `limit` and UniformSelector."
        )
