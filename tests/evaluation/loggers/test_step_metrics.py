"""A step's metrics reach loggers and callbacks as they are."""

from __future__ import annotations

import pytest
from step_logs import Logged, logging_trainer

from bots_lightning.evaluation import log_step_metrics


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (0, [])])
def test_loggers_get_every_nth_step_and_callbacks_all(every: int, steps: list[int]) -> None:
    logger = Logged()
    trainer = logging_trainer(logger, log_every_n_steps=every)
    for iteration in range(1, 5):
        log_step_metrics(trainer, {"a": float(iteration), "n": 2.0**24 + 1}, iteration)
        assert {name: float(value) for name, value in trainer.callback_metrics.items()}["a"] == iteration
    assert logger.calls == [(step, {"a": float(step), "n": 2.0**24 + 1}) for step in steps]  # not of float32


def test_the_last_step_of_a_run_that_is_stopped_is_logged() -> None:
    logger = Logged()
    log_step_metrics(logging_trainer(logger, log_every_n_steps=10, should_stop=True), {"a": 1.0}, 3)
    assert logger.calls == [(3, {"a": 1.0})]
