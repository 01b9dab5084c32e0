"""Checkpoints of complete steps: saved when a step's metrics are logged and its evaluation is done, not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint


class WholeSteps(Callback):
    """Makes `ModelCheckpoint(every_n_train_steps=…)` save between two steps.

    In Lightning it saves at the end of a batch, before the step's metrics are logged and before an evaluation that is
    due: both are lost to a run that resumes from there. Here it saves before the next draw of tasks, and after the last
    step when training has ended.

    A checkpoint from the end of an epoch resumes with the next epoch, where Lightning would train on in the old one.

    Args:
        trainer: that trains; this becomes the first of its callbacks.
        between_steps: functions that are called before each draw; `save` is added.

    Raises:
        ValueError: a ModelCheckpoint saves by time.
    """

    def __init__(self, trainer: Any, between_steps: list[Callable[[], None]]) -> None:
        self.trainer = trainer
        self.keepers = [keeper for keeper in trainer.checkpoint_callbacks if isinstance(keeper, ModelCheckpoint)]
        self.between_steps = between_steps
        self._due = False
        for keeper in self.keepers:
            _check(keeper)
            vars(keeper).update(on_train_batch_end=_later, on_train_end=_later)
        between_steps.append(self.save)
        trainer.callbacks.insert(0, self)

    def remove(self) -> None:
        """Undoes what the constructor has changed in trainer, ModelCheckpoints and data."""
        self.trainer.callbacks.remove(self)
        self.between_steps.remove(self.save)
        for keeper in self.keepers:
            del vars(keeper)["on_train_batch_end"], vars(keeper)["on_train_end"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the epoch of a checkpoint that was saved at the epoch's end."""
        loop: Any = trainer.fit_loop.epoch_loop
        batches = loop.batch_progress.current
        at_end = batches.completed == batches.ready and loop._num_ready_batches_reached()
        if loop.restarting and at_end and not loop._should_check_val_fx(self._fetcher):
            self._fetcher.done = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Sets the count of steps that some callbacks log by, which Lightning does not restore in all cases."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = pl_module.progress.iterations

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes that a save is due; the step's metrics and evaluation are still to come."""
        self._due = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Saves the count of steps, and counts a batch as over if another callback saves at its end.

        Otherwise Lightning would count one epoch too many when it resumes from the end of an epoch's last batch.
        """
        loop = checkpoint.get("loops", {}).get("fit_loop")  # not where weights alone are saved
        if not loop:
            return
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = pl_module.progress.iterations
        for batches in (loop["epoch_loop.batch_progress"][kind] for kind in ("total", "current")):
            if batches["ready"] == batches["processed"]:
                batches["completed"] = batches["processed"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves after the last step and evaluation, always also as `last.ckpt`."""
        self.save()
        for keeper in self.keepers:
            if keeper.save_last and not keeper._should_skip_saving_checkpoint(trainer):
                keeper._last_checkpoint_saved = ""  # with `save_last: link`, a file of its own: the latest is older
                keeper._save_last_checkpoint(trainer, keeper._monitor_candidates(trainer))

    def save(self) -> None:
        """Saves with each ModelCheckpoint that is due, if a step has ended since the last call."""
        if self._due:
            self._due = False
            for keeper in self.keepers:
                ModelCheckpoint.on_train_batch_end(keeper, self.trainer, self.trainer.lightning_module, None, None, 0)

    @property
    def _fetcher(self) -> Any:
        return self.trainer.fit_loop._data_fetcher


def _later(*_: Any) -> None:
    """Replaces a ModelCheckpoint's own hooks: `WholeSteps` saves later."""


def _check(keeper: ModelCheckpoint) -> None:
    if keeper._train_time_interval is not None:
        raise ValueError(
            "ModelCheckpoint.train_time_interval does nothing here, since Lightning reads it under automatic "
            "optimization only; use every_n_train_steps."
        )
