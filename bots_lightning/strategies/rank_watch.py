"""Ranks notice when one of them is gone."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Callback

from bots_lightning.options import check_numbers
from bots_lightning.strategies.connections import GONE, GOODBYE, Connections
from bots_lightning.strategies.meeting import check_same_checkpoint

TOGETHER_SECONDS = 1.0  # within which ranks fail for the same reason, and each reports its own error
NEWS_SECONDS = 5.0  # how long a rank whose collective has failed waits for the news that another one is gone
LIBRARIES = ("torch", "deepspeed", "lightning")
LONGEST = 300  # characters of an error that are sent to the others


class LostRankError(ConnectionError):
    """A rank has ended before the run has."""


class RankWatch(Callback):
    """Names a rank that is gone and ends the others, which would wait for it: with NCCL, half an hour.

    Every rank holds a connection to the first. The operating system closes it when a process is killed, and sends the
    probes of TCP keep-alive that a vanished node no longer answers, so that a busy process is never mistaken for a dead
    one. A rank that hangs is alive; the strategy's `timeout_seconds` is for it. A rank that fails or is interrupted
    sends the reason to the others.

    Args:
        grace_seconds: how long the other ranks may take to end by themselves before they are ended, at least 0.

    Attributes:
        checkpoint: what this rank resumes from, if that is known; it must be the same for all.
        lost: the name of the rank that is gone, None while there is none.
        fate: what has become of it.

    Raises:
        ValueError: the seconds are out of range.
    """

    def __init__(self, grace_seconds: float = 10.0) -> None:
        check_numbers(0, grace_seconds=grace_seconds)
        self.grace_seconds = grace_seconds
        self.checkpoint: str | None = None
        self.lost: str | None = None
        self.fate = GONE
        self.connections = Connections()
        self._known = threading.Event()  # that a rank is lost
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connects the ranks.

        Raises:
            ValueError: they resume from different checkpoints.
        """
        if trainer.world_size == 1 or self._thread is not None:
            return
        environment: Any = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
        name = f"rank {trainer.global_rank} (process {os.getpid()} on {socket.gethostname()})"
        port, secret = self.listen() if trainer.is_global_zero else (0, "")
        port, secret, first = trainer.strategy.broadcast((port, secret, name))
        if not trainer.is_global_zero:
            self.connect(environment.main_address, port, secret, name, first)
        check_same_checkpoint(self.checkpoint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Says goodbye to the others."""
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Says goodbye if the program ends as intended, else sends the reason, unless that is the loss of another."""
        if isinstance(exception, SystemExit) and not exception.code:
            self.close()
        elif self._thread is not None and not (_of_libraries(exception) and self._hears_of_loss()):
            self.close(f"\t{_fate(exception)}\n")

    def account(self) -> str:
        """What has become of the rank that is lost, and how to continue."""
        log = " See its log." if self.fate == GONE else ""
        return f"{self.lost} {self.fate}.{log} To continue: --ckpt_path last"

    def listen(self) -> tuple[int, str]:
        """Starts the watch of the first rank; returns its port, and the secret that the others must send."""
        opened = self.connections.listen()
        self._start()
        return opened

    def connect(self, address: str, port: int, secret: str, name: str, first: str) -> None:
        """Starts the watch of another rank; arguments as of `Connections.connect`.

        A rank that cannot connect runs unwatched.
        """
        try:
            self.connections.connect(address, port, secret, name, first)
        except OSError as error:
            print(f"{name} is not watched: port {port} of {address}: {error}", file=sys.stderr, flush=True)
            return
        self._start()

    def close(self, message: str = GOODBYE) -> None:
        """Ends the watch.

        Args:
            message: to the others, see `Connections`; if it is empty, they take this rank for gone.
        """
        if self._thread is None or self._over.is_set():
            return
        self._over.set()
        self.connections.send(message)
        self._thread.join()
        self.connections.close()

    def _start(self) -> None:
        os.register_at_fork(after_in_child=self.connections.close)  # a child would keep a dead parent's connection
        self._thread = threading.Thread(target=self._watch, name="rank-watch", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        """Ends this process when a rank is lost; runs on a thread of its own."""
        for lost in self.connections.losses():
            if self._over.is_set():  # both closing at once looks like a loss
                return
            if lost is not None:
                self._end(*lost)
                return

    def _end(self, lost: str, fate: str) -> None:
        _stop_observer()
        if self.connections.server:
            self.connections.send(f"{lost}\t{fate}\n")
        if self._over.wait(TOGETHER_SECONDS):
            return  # this rank has failed by itself
        self.lost, self.fate = lost, fate
        self._known.set()
        print(f"\n{lost} {fate}; the others end within {self.grace_seconds:g} s.", file=sys.stderr, flush=True)
        if not self._over.wait(self.grace_seconds):
            os._exit(1)

    def _hears_of_loss(self) -> bool:
        """Whether another rank is gone; a collective may fail before the news arrives.

        Meanwhile, a launcher's SIGTERM is ignored, since this rank ends within `grace_seconds` anyway: Lightning's
        handler would wait for the other ranks in the middle of this.
        """
        if threading.current_thread() is not threading.main_thread():
            return self._known.wait(NEWS_SECONDS)
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not self._known.wait(NEWS_SECONDS):
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        return self._known.is_set()


def _fate(exception: BaseException) -> str:
    """What is sent to the others about a rank that this has ended."""
    if isinstance(exception, KeyboardInterrupt):
        return "was interrupted by Ctrl-C or SIGINT"
    if isinstance(exception, SystemExit):
        return f"has ended with exit code {exception.code}"
    return " ".join(f"has failed: {type(exception).__name__}: {exception}".split())[:LONGEST].rstrip(".")


def _of_libraries(exception: BaseException) -> bool:
    """Whether a library has raised it, as where a collective fails because another rank is gone."""
    frames = [frame for frame, _ in traceback.walk_tb(exception.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    return isinstance(exception, RuntimeError | OSError) and module.partition(".")[0] in LIBRARIES


def _stop_observer() -> None:
    """Stops Lightning's observer, which would kill this process silently as soon as one of its children is gone."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []
