"""A run that is told to go, or cannot go on, saves itself first."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from bots_lightning.algorithms import StepFailedError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of a launcher or a user, and of SLURM before the time is up


class GracefulStop(Callback):
    """On SIGTERM or SIGUSR1, at any rank: saves `last.ckpt` when the step is done, and ends the program with code 0.

    Ranks agree at the end of each step. The program ends before the next one and not through `trainer.should_stop`,
    which would have the policy evaluated first: an evaluation that the undisturbed run does not make. An evaluation
    that is due is made, and a run that is at its end anyway ends as always.

    A step that fails since a reward function or an engine does is saved as it began: a resumed run makes it again, with
    the same tasks. One whose update fails, for want of memory, is saved with its evidence, and a resumed run goes on
    with the next tasks. Rollouts that are under way for the next step (`max_staleness`) are waited for and saved too.

    Lightning's own handlers wait inside the handler for ranks that may never come, and save nothing; these replace
    them while training goes on. List it behind the callbacks whose state it saves.
    """

    def __init__(self) -> None:
        self._received: str | None = None
        self._saved: Path | None = None
        self._replaced: dict[signal.Signals, Any] = {}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens from the evaluation before training on."""
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens."""
        self._listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if any rank was told to go."""
        if self._saved is None and trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            self._saved = last_checkpoint(trainer)
            trainer.save_checkpoint(self._saved)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends the program; the metrics of the step that was saved are logged by now.

        Raises:
            SystemExit: with code 0.
        """
        if self._saved is None:
            return
        if trainer.is_global_zero:
            iterations: Any = pl_module.progress.iterations  # type: ignore[union-attr]
            reason = self._received or "a signal to another rank"
            text = f"stopped after {iterations} iterations by {reason}; to continue: --ckpt_path {self._saved}"
            print(f"\n{text}", file=sys.stderr, flush=True)
        raise SystemExit(0)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts the handlers back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Puts the handlers back; saves where a step has failed on all ranks alike."""
        self._restore()
        if isinstance(exception, StepFailedError):
            path = last_checkpoint(trainer)
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                print(f"\nsaved as the last step left it; to continue: --ckpt_path {path}", file=sys.stderr)

    def _listen(self) -> None:
        if self._replaced or threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        self._received = self._saved = None
        self._replaced = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number).name

    def _restore(self) -> None:
        for number, handler in self._replaced.items():
            if signal.getsignal(number) == self._receive:  # Lightning may have put its own predecessors back already
                signal.signal(number, handler)
        self._replaced = {}


def last_checkpoint(trainer: Trainer) -> Path:
    """The run's `last.ckpt`, in the folder of its ModelCheckpoint."""
    keeper = trainer.checkpoint_callback
    folder = keeper.dirpath if isinstance(keeper, ModelCheckpoint) else None
    return Path(folder or Path(trainer.default_root_dir) / "checkpoints") / "last.ckpt"
