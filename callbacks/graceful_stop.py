"""A run that is preempted, or cannot go on, saves itself first."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from bots_lightning.training import StepFailedError

# Of a launcher or a user, of a terminal (Ctrl-C, and its window closed), and of SLURM before the time is up.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
SAME_PRESS = 0.5  # seconds in which launchers pass on what the terminal has sent to all processes already
PROGRAM = "bots-lightning"


class GracefulStop(Callback):
    """On Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, at any rank: saves `last.ckpt` when the step is done, and ends.

    The exit code is 0 then. A second Ctrl-C ends the program at once; so does the first signal where no step is done
    yet that could be saved.

    Ranks agree at the end of each step. The program ends before the next one and not through `trainer.should_stop`,
    which would have the policy evaluated first: an evaluation that the undisturbed run does not make. An evaluation
    that is due is made and saved too, and a run that is at its end anyway ends as always.

    A step that fails since a reward function or an engine does is saved as it began: a resumed run makes it again, with
    the same tasks. One whose update fails, out of memory for example, is saved with its evidence, and a resumed run
    goes on with the next tasks. Rollouts that are under way for the next step (`max_staleness`) are waited for and
    saved too.

    Lightning's own handlers wait inside the handler for ranks that may never come, and save nothing; these replace
    them while training goes on.
    """

    def __init__(self) -> None:
        self._received: str | None = None
        self._pressed = math.inf  # when Ctrl-C was, first
        self._agreed = False  # of all ranks: to go before the next step
        self._begun = 0  # iterations that were done when this run began
        self._trainer: Trainer | None = None
        self._replaced: dict[signal.Signals, Any] = {}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens from the evaluation before training on."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens."""
        self._listen(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Asks whether any rank has received a signal."""
        self._agreed = trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)

    def leave(self) -> None:
        """Between two steps: saves and ends the program, if any rank has received a signal.

        Raises:
            SystemExit: with code 0.
        """
        trainer = self._trainer
        if not self._agreed or trainer is None:
            return
        path = last_checkpoint(trainer)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            reason = self._received or "a signal to another rank"
            print(
                f"\nstopped after {_iterations(trainer)} iterations by {reason}; {how_to_continue(path)}",
                file=sys.stderr,
            )
            sys.stderr.flush()
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
                print(f"\nsaved as the last step left it; {how_to_continue(path)}", file=sys.stderr)

    def _listen(self, trainer: Trainer) -> None:
        if self._replaced or threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        self._received, self._pressed, self._agreed = None, math.inf, False
        self._begun, self._trainer = _iterations(trainer), trainer
        trainer.datamodule.between_steps.append(self.leave)  # type: ignore[attr-defined]
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup means it
        self._replaced = {number: signal.signal(number, self._receive) for number in heard}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        pressed, now = number == signal.SIGINT, time.monotonic()
        nothing_done = self._trainer is None or _iterations(self._trainer) == self._begun
        if nothing_done or (pressed and now > self._pressed + SAME_PRESS):
            raise KeyboardInterrupt if pressed else SystemExit(128 + number)
        self._pressed = min(self._pressed, now if pressed else math.inf)
        if self._received:
            return
        self._received = signal.Signals(number).name
        text = (
            f"\n{self._received}: the step is finished and saved first; Ctrl-C{' again' * pressed} ends it at once.\n"
        )
        os.write(2, text.encode())  # a handler may come in the middle of another print

    def _restore(self) -> None:
        for number, handler in self._replaced.items():
            if signal.getsignal(number) == self._receive:  # Lightning may have put its own predecessors back already
                signal.signal(number, handler)
        if self._replaced and self._trainer is not None:
            self._trainer.datamodule.between_steps.remove(self.leave)  # type: ignore[attr-defined]
        self._replaced = {}


def _iterations(trainer: Trainer) -> int:
    return trainer.lightning_module.progress.iterations  # type: ignore[return-value, union-attr]


def last_checkpoint(trainer: Trainer) -> Path:
    """The run's `last.ckpt`, in the folder of its ModelCheckpoint."""
    keeper = trainer.checkpoint_callback
    folder = keeper.dirpath if isinstance(keeper, ModelCheckpoint) else None
    return Path(folder or Path(trainer.default_root_dir) / "checkpoints") / "last.ckpt"


def how_to_continue(path: Path) -> str:
    """The command that goes on from a checkpoint, or its option where another program has started this one."""
    if Path(sys.argv[0]).name != PROGRAM or "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_NTASKS" in os.environ:
        return f"to continue: --ckpt_path {path}"
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word == "--ckpt_path":
            next(words, None)
        elif not word.startswith("--ckpt_path="):
            kept.append(word)
    return f"to continue: {shlex.join([PROGRAM, *kept, '--ckpt_path', str(path)])}"
