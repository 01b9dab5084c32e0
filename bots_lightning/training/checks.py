"""Checks before a run starts, of what would fail, or go wrong silently, hours later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from bots_lightning.algorithms import Algorithm
from bots_lightning.data import TaskDataModule
from bots_lightning.strategies import OnlineStrategy, shards_parameters
from bots_lightning.strategies.digests import differing_weights
from bots_lightning.training.sampler import Sampler


def check_trainer(trainer: Any, algorithm: Algorithm) -> None:
    """Refuses options of the Trainer, and of the algorithm, under which online learning goes wrong.

    Args:
        trainer: of the run.
        algorithm: of the run.

    Raises:
        ValueError: names the option and what to use instead.
    """
    algorithm.check_fit()
    if not isinstance(trainer.datamodule, TaskDataModule):
        raise ValueError("training needs a TaskDataModule; pass Trainer.fit(module, datamodule=TaskDataModule(…)).")
    check_ranks(trainer, trainer.datamodule)
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


def check_ranks(trainer: Any, datamodule: TaskDataModule) -> None:
    """Refuses a strategy or a batch size that does not fit several ranks; may be called before these are started.

    Args:
        trainer: with its strategy.
        datamodule: with its batch size.

    Raises:
        ValueError: names the option and what to use instead.
    """
    ranks = trainer.world_size
    if ranks > 1 and not isinstance(trainer.strategy, OnlineStrategy):
        raise ValueError(
            f"the run has {ranks} processes under {type(trainer.strategy).__name__}, which expects one "
            "backward pass per step. Stack a config of configs/strategies, or set trainer.devices=1."
        )
    if datamodule.batch_size % ranks:
        raise ValueError(
            f"batch_size={datamodule.batch_size} tasks do not divide evenly over {ranks} ranks; choose a multiple of "
            f"{ranks}."
        )


def check_ranks_agree(fingerprint: Callable[[], str], weights: Iterable[tuple[str, Tensor]] = ()) -> None:
    """Compares the selector's state and the trained weights of all ranks, if there are several.

    Args:
        fingerprint: a digest of this rank's state.
        weights: the trained ones that are replicated on every rank, by name; none under ZeRO-3, which shards them:
            there is nothing to compare.

    Raises:
        RuntimeError: they differ, so that draws or gradients would differ from here on.
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
    if differing := differing_weights(weights):
        raise RuntimeError(
            f"the ranks no longer hold the same weights ({differing}). A callback or hook that changes weights or "
            "gradients must do so on all ranks alike; resume from the last checkpoint."
        )


def check_update(trainer: Any, sampler: Sampler, algorithm: Algorithm) -> None:
    """Refuses rollouts and updates that are impossible, or whose number of optimizer steps is not known in advance.

    Args:
        trainer: of the run, with its data module attached.
        sampler: with the numbers of rollouts.
        algorithm: with the numbers of optimizer steps.

    Raises:
        ValueError: names the option and what to use instead.
    """
    ahead = sampler.max_staleness
    if ahead and not sampler.engine.own_weights and shards_parameters(trainer.strategy):
        raise ValueError(
            f"max_staleness={ahead} needs a copy of the policy, and under ZeRO-3 no rank holds all of its parameters. "
            "Use configs/strategies/zero2.yaml, or inference servers, or set max_staleness=0."
        )
    tasks: TaskDataModule = trainer.datamodule
    tasks.allocation.check(sampler.num_generations)
    if ahead and tasks.allocation.sequential:
        raise ValueError(
            f"{type(tasks.allocation).__name__} asks for further rollouts when the first are scored, and with "
            f"max_staleness={ahead} that is a step later. Set max_staleness=0, or choose an allocation of one round."
        )
    if algorithm.target_kl is not None and trainer.max_steps > 0:
        raise ValueError(
            f"trainer.max_steps={trainer.max_steps} counts optimizer steps, and target_kl={algorithm.target_kl} "
            "leaves some out: the run would go on past its schedule. Limit it by trainer.max_epochs and "
            "data.steps_per_epoch."
        )
    rows = tasks.batch_size // trainer.world_size * sampler.num_generations
    if algorithm.num_minibatches > rows:
        raise ValueError(
            f"{algorithm.num_minibatches} optimizer steps per epoch over {rows} rollouts; expected at most one for "
            "each. Lower steps_per_generation (of PPO: num_mini_batches), or raise data.batch_size or num_generations."
        )
