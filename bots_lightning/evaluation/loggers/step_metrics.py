"""Metrics of a training step, on their short way to loggers and callbacks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning import Trainer


def log_step_metrics(trainer: Trainer, metrics: Mapping[str, float], iteration: int) -> None:
    """Logs some metrics of a training step: to every logger, and to `trainer.callback_metrics`.

    `LightningModule.log` keeps the mean over an epoch of each, which takes it about a millisecond a metric, and on
    several ranks a collective: of a short step that is more than its selection. Here each has the one value.

    Args:
        trainer: of the run.
        metrics: equal on all ranks. A step may log in several calls, each of other metrics.
        iteration: of the run, counted from 1; every `log_every_n_steps`-th goes to the loggers.
    """
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    every = trainer.log_every_n_steps  # type: ignore[attr-defined] # of a connector
    if every and (iteration % every == 0 or trainer.should_stop):
        for logger in trainer.loggers:
            logger.log_metrics(dict(metrics), step=iteration)
