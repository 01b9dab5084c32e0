"""Ranks that do nothing but meet, as the environment says, or started by Lightning where it says nothing."""

from __future__ import annotations

import sys

import torch.distributed as dist
from lightning import Trainer

from bots_lightning.strategies import DataParallel, meeting

meeting.ANSWER_SECONDS = 2.0


def main() -> None:
    """Prints a line when all ranks are there."""
    trainer = Trainer(accelerator="cpu", devices=2, strategy=DataParallel(), logger=False, enable_checkpointing=False)
    try:
        trainer.strategy.launcher.launch(trainer.strategy.setup_environment)
    except ConnectionError as error:
        sys.exit(f"error: {error}")
    trainer.strategy.barrier()
    print(f"rank {trainer.global_rank} is there", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
