"""Tracks what the selection costs."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback


class SelectionOverhead(Callback):
    """Logs the seconds of select and observe over the seconds of the whole step, as a mean over the run.

    The whole step is selection, rollouts, rewards, update and observation; time between steps, evaluation and
    checkpoints are left out, so that the figure errs on the high side.

    Logs `selection/overhead_fraction`.
    """

    def __init__(self) -> None:
        self.selection_seconds = 0.0
        self.step_seconds = 0.0

    @property
    def fraction(self) -> float:
        """Share of the run's step time spent on selection; NaN before the first step."""
        return self.selection_seconds / self.step_seconds if self.step_seconds else float("nan")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the timings of one step."""
        timings = outputs["timings"]
        self.selection_seconds += timings["select"] + timings["observe"]
        self.step_seconds += timings["select"] + timings["step"]
        pl_module.log("selection/overhead_fraction", self.fraction, batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"selection_seconds": self.selection_seconds, "step_seconds": self.step_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the mean."""
        self.selection_seconds = state_dict["selection_seconds"]
        self.step_seconds = state_dict["step_seconds"]
