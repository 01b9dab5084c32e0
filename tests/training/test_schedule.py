"""How long a run is, by the limits of its trainer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bots_lightning.training.schedule import total_optimizer_steps
from bots_lightning.training.start import planned_iterations


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "steps"),
    [(7, -1, 7), (-1, 2, 2 * 5 * 3), (7, 2, 7), (99, 2, 2 * 5 * 3), (-1, -1, None), (-1, None, None)],
)
def test_the_first_limit_ends_a_run(max_steps: int, max_epochs: int | None, steps: int | None) -> None:
    """Epochs of 5 batches, with 3 optimizer steps on each."""
    loop = SimpleNamespace(setup_data=lambda: None)
    trainer = SimpleNamespace(max_steps=max_steps, max_epochs=max_epochs, num_training_batches=5, fit_loop=loop)
    assert total_optimizer_steps(trainer, 3) == steps
    assert planned_iterations(trainer, SimpleNamespace(steps_per_iteration=3)) == (
        None if steps is None else steps // 3
    )
