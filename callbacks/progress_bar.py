"""One bar with the three numbers that tell how an RL run goes."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

Metrics = dict[str, int | str | float | dict[str, float]]


class TaskProgressBar(TQDMProgressBar):
    """Lightning's progress bar showing mean reward, effective task ratio, and held-out accuracy before and now."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Metrics:
        """The latest metrics, by the short names of the bar."""
        logged = trainer.callback_metrics
        names = {"reward": "reward", "ETR": "selection/effective_task_ratio"}
        shown: Metrics = {short: f"{float(logged[name]):.2f}" for short, name in names.items() if name in logged}
        history: Any = pl_module.history
        if history:
            shown["before"] = f"{history[0]['overall']:.3f}"
        if len(history) > 1:
            shown["held-out"] = f"{history[-1]['overall']:.3f}"
        return shown
