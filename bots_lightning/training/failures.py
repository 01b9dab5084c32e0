"""Failures that all ranks see together, so that they can save what they have."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback

Result = TypeVar("Result")


class StepFailedError(RuntimeError):
    """A step could not be made; all ranks have stopped at the same place, and the run can be saved there."""


class Closes(Protocol):
    """Something that can be given up."""

    def close(self) -> None:
        """Gives it up; returns at once."""


class EndsRollouts(Callback):
    """Ends asynchronous rollouts when a run fails: Lightning tears no module down then.

    Args:
        sampler: whose rollouts may be under way.
    """

    def __init__(self, sampler: Closes) -> None:
        self.sampler = sampler

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives them up."""
        self.sampler.close()


def together(strategy: Any, attempt: Callable[[], Result]) -> Result:
    """The result of an attempt that succeeds on all ranks.

    Args:
        strategy: of the trainer.
        attempt: what this rank has to do; without collectives, so that it may fail on one rank alone.

    Raises:
        StepFailedError: it has failed on some rank; raised on all, from the failure where that happened.
    """
    failure = None
    try:
        result = attempt()
    except Exception as error:  # raised on all ranks, below
        failure = error
    if strategy.reduce_boolean_decision(failure is None, all=True):
        return result
    raise StepFailedError(_account(failure)) from failure


def by_first_rank(strategy: Any, check: Callable[[], None]) -> None:
    """A check that only the first rank makes, while the others wait; what it refuses, all refuse.

    Args:
        strategy: of the trainer.
        check: raises an error; without collectives.

    Raises:
        ValueError: on the other ranks, with the message of the first one's error.
    """
    failure = None
    if strategy.is_global_zero:
        try:
            check()
        except Exception as error:  # raised again below, when the others know
            failure = error
    message = strategy.broadcast(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    if message is not None:
        raise ValueError(message)


def _account(failure: Exception | None) -> str:
    """What failed, and on which ranks."""
    what = "" if failure is None else f"{type(failure).__name__}: {failure}"
    if not (dist.is_available() and dist.is_initialized()):
        return what
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, f"{what} (process {os.getpid()})" if what else "")
    return "; ".join(f"rank {rank}: {what}" for rank, what in enumerate(everyone) if what)
