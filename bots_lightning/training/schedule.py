"""How long a run is, in optimizer steps."""

from __future__ import annotations

from typing import Any


def total_optimizer_steps(trainer: Any, steps_per_iteration: int) -> int | None:
    """Optimizer steps of the whole run, None if it is endless.

    Args:
        trainer: of the run, with its data module attached.
        steps_per_iteration: optimizer steps on each batch of rollouts.

    Returns:
        the smaller of `max_steps` and what `max_epochs` amounts to.
    """
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        trainer.fit_loop.setup_data()
        limits.append(trainer.max_epochs * int(trainer.num_training_batches) * steps_per_iteration)
    return min(limits, default=None)
