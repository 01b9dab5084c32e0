"""What a module needs of its strategy: one device, several data parallel ranks, or DeepSpeed."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from bots_lightning.strategies.meeting import meet

Computed = TypeVar("Computed")


class OnlineStrategy(ABC):
    """What a strategy of several ranks adds to Lightning's: many backward passes per step, and rollouts.

    A strategy of one device needs none of it; the functions of this module treat both alike.
    """

    repeatable: bool  # whether a rank's backward passes can be made again: they involve no other rank

    @property
    def shards_parameters(self) -> bool:
        """See the function `shards_parameters`."""
        return False

    @abstractmethod
    def trained_pass(self, compute: Callable[[], Computed]) -> Computed:
        """Implements the function `trained_pass`."""

    @abstractmethod
    def gathered_parameters(self) -> AbstractContextManager[None]:
        """Implements the function `gathered_parameters`."""

    @abstractmethod
    def take_step(
        self, optimizer: Any, trained: Sequence[nn.Parameter], max_norm: float, finite: bool
    ) -> tuple[float, bool]:
        """Implements the function `take_step`."""


def trained_pass(strategy: Any, compute: Callable[[], Computed]) -> Computed:
    """Runs a forward pass that will be differentiated, where the strategy sees it.

    Args:
        strategy: of the trainer.
        compute: the pass. All ranks make equally many.

    Returns:
        what `compute` returns.
    """
    return strategy.trained_pass(compute) if isinstance(strategy, OnlineStrategy) else compute()


def repeatable(strategy: Any) -> bool:
    """Whether backward passes can be made again after one of them has failed on some rank."""
    return strategy.repeatable if isinstance(strategy, OnlineStrategy) else True


def shards_parameters(strategy: Any) -> bool:
    """Whether a rank holds only a shard of each weight outside `gathered_parameters`."""
    return isinstance(strategy, OnlineStrategy) and strategy.shards_parameters


def gathered_parameters(strategy: Any) -> AbstractContextManager[None]:
    """A context in which every rank holds all weights, for passes without gradient: each rank may make its own.

    Args:
        strategy: of the trainer. All its ranks enter and leave the context together.
    """
    return strategy.gathered_parameters() if isinstance(strategy, OnlineStrategy) else nullcontext()


def take_step(
    strategy: Any, optimizer: Any, trained: Sequence[nn.Parameter], max_norm: float, finite: bool
) -> tuple[float, bool]:
    """Averages gradients over ranks, clips them and steps, unless a loss or a gradient is not finite.

    Args:
        strategy: of the trainer.
        optimizer: Lightning's.
        trained: all trainable weights, in the same order on all ranks; some may have no gradient.
        max_norm: the gradients' largest norm.
        finite: whether this rank's loss is.

    Returns:
        the gradients' norm before clipping, and whether the step was taken; the same on all ranks.
    """
    if isinstance(strategy, OnlineStrategy):
        return strategy.take_step(optimizer, trained, max_norm, finite)
    return clipped_step(strategy, optimizer, trained, max_norm, finite)


def clipped_step(
    strategy: Any, optimizer: Any, trained: Sequence[nn.Parameter], max_norm: float, finite: bool
) -> tuple[float, bool]:
    """`take_step` where every rank has the full gradient, already averaged. A skipped step clips nothing."""
    norm = get_total_norm([weight.grad for weight in trained if weight.grad is not None])
    if not strategy.reduce_boolean_decision(finite and bool(torch.isfinite(norm)), all=True):
        return float(norm), False
    clip_grads_with_norm_(trained, max_norm, norm)
    optimizer.step()
    return float(norm), True


def connect_ranks(strategy: Any) -> None:
    """Connects the ranks before the process group is made, see `meet`.

    Where it fails, the processes that Lightning has started end with this one.

    Args:
        strategy: of several ranks.

    Raises:
        ConnectionError: the ranks cannot meet.
    """
    strategy.set_world_ranks()
    environment = strategy.cluster_environment
    try:
        meet(
            environment.main_address,
            environment.main_port,
            strategy.global_rank,
            strategy.world_size,
            strategy._timeout,
        )
    except ConnectionError:
        if isinstance(strategy.launcher, _SubprocessScriptLauncher):
            strategy.launcher.kill(signal.SIGTERM)
        raise
