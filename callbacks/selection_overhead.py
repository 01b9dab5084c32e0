"""Tracks what the selection costs."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback

from bots_lightning.evaluation import log_step_metrics
from callbacks.selection_callback import SelectionCallback


class SelectionOverhead(Callback):
    """Logs what the selection costs over the seconds of the whole step, as a mean over the run.

    Its cost is the draw with its counts, and what an allocation decides between rounds; the forecast of the step's
    evidence and the update of the selector; and the callbacks that exist for the selection (`SelectionCallback`:
    `EffectiveTaskRatio`, `BeliefQuality`), with several ranks their wait for each other included. They hand their
    metrics to the loggers, which is counted; that `MetricsCSV` and `TensorBoardCurves` write a whole row when the step
    is over is not. Callbacks that run after this one in a step are counted with the next.

    The whole step is selection, rollouts, rewards, update, observation and those callbacks; time between steps,
    evaluation and checkpoints are left out, so that the fraction errs on the high side.

    Logs `selection/overhead_fraction`.
    """

    def __init__(self) -> None:
        self.selection_seconds = 0.0
        self.step_seconds = 0.0
        self._callbacks: list[SelectionCallback] = []
        self._counted = 0.0  # seconds of theirs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks for the callbacks whose time it counts."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._callbacks = [callback for callback in callbacks if isinstance(callback, SelectionCallback)]
        self._counted = sum(callback.seconds for callback in self._callbacks)

    @property
    def fraction(self) -> float:
        """Share of the run's step time spent on selection; NaN before the first step."""
        return self.selection_seconds / self.step_seconds if self.step_seconds else float("nan")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the timings of one step."""
        timings, before = outputs["timings"], self._counted
        self._counted = sum(callback.seconds for callback in self._callbacks)
        of_callbacks = self._counted - before
        self.selection_seconds += timings["select"] + timings["observe"] + of_callbacks
        self.step_seconds += timings["select"] + timings["step"] + of_callbacks
        progress: Any = pl_module.progress
        log_step_metrics(trainer, {"selection/overhead_fraction": self.fraction}, progress.iterations)

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"selection_seconds": self.selection_seconds, "step_seconds": self.step_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the mean."""
        self.selection_seconds = state_dict["selection_seconds"]
        self.step_seconds = state_dict["step_seconds"]
