"""The start of a run: what it may roll out, how long it is, and what its steps share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn

from bots_lightning.algorithms import Algorithm, Progress, StepContext
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import Policy
from bots_lightning.rollouts import prompt_room
from bots_lightning.tasks import TaskPool
from bots_lightning.training.sampler import Sampler
from bots_lightning.training.schedule import total_optimizer_steps
from bots_lightning.training.trained import trained_weights


def pools_of(trainer: Any) -> dict[str, TaskPool]:
    """All that a run may roll out, by what errors call it.

    Args:
        trainer: of the run, in one of its functions.
    """
    tasks, function = trainer.datamodule, trainer.state.fn
    if not isinstance(tasks, TaskDataModule):
        return {}  # `check_trainer` refuses it
    training = {"training": tasks.require_pool()}
    if function == TrainerFn.PREDICTING:
        return training
    return tasks.eval_pools if function != TrainerFn.FITTING else training | tasks.eval_pools


def prompt_room_of(policy: Policy, algorithm: Algorithm, sampler: Sampler) -> int | None:
    """The tokens of the shortest context, of policy and critic, that a completion leaves to a prompt.

    Args:
        policy: with its checkpoint.
        algorithm: with that of a critic, if it has one of its own.
        sampler: with the limits of prompts and completions.

    Returns:
        None where there is no bound.

    Raises:
        ValueError: nothing is left.
    """
    lengths = [length for length in (policy.context_length(), algorithm.context_length()) if length]
    return prompt_room(min(lengths, default=None), sampler.max_prompt_length, sampler.max_completion_length)


def prepare_engine(sampler: Sampler) -> None:
    """Tells the engine that rollouts will be asynchronous, if they will.

    Args:
        sampler: with its encoder and tasks.
    """
    if sampler.max_staleness:
        task = sampler.tasks.require_pool()[0]
        sampler.engine.run_ahead(sampler.encoder.encode([task.prompt], [task.id])[0], sampler.max_staleness)


def planned_iterations(trainer: Any, algorithm: Algorithm) -> int | None:
    """The iterations of the whole run; None if it is endless.

    Args:
        trainer: of the run, its data module attached.
        algorithm: with its optimizer steps on each batch of tasks.
    """
    steps_per_iteration = algorithm.steps_per_iteration
    steps = total_optimizer_steps(trainer, steps_per_iteration)
    return None if steps is None else steps // steps_per_iteration


def step_context(module: Any, progress: Progress, seed: int, max_completion_length: int) -> StepContext:
    """What the parts of a step share.

    Args:
        module: the LightningModule, attached to a trainer.
        progress: counters of the run.
        seed: of the run.
        max_completion_length: tokens.
    """
    trainer, optimizing = module.trainer, bool(module.trainer.optimizers)
    context = StepContext(
        strategy=trainer.strategy,
        device=module.device,
        rank=module.global_rank,
        world_size=trainer.world_size,
        all_gather=module.all_gather,
        backward=module.manual_backward,
        seed=seed,
        progress=progress,
        max_completion_length=max_completion_length,
        optimizer=module.optimizers() if optimizing else None,
        scheduler=module.lr_schedulers() if optimizing else None,
        global_step=lambda: trainer.global_step,
        trained=trained_weights(module),
        folder=Path(trainer.default_root_dir),
    )
    context.clock.seconds["select"] = trainer.datamodule.select_seconds if trainer.datamodule else 0.0  # just before
    return context
