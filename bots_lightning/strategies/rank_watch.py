"""Ranks notice when one of them is gone."""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import traceback
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Callback

from bots_lightning.strategies.meeting import check_same_checkpoint

PROBES = (10, 5, 4)  # seconds of silence before the first, seconds between, how many: a vanished node after 30 s
BYE = "bye\n"
GONE = "is gone"  # of a rank that could not say what has ended it
TOGETHER_SECONDS = 1.0  # within which ranks fail for the same reason, and each tells its own
NEWS_SECONDS = 5.0  # until a rank whose collective has failed hears of the one that is gone
LIBRARIES = ("torch", "deepspeed", "lightning")
LONGEST = 300  # characters of an error that are passed on


class LostRankError(ConnectionError):
    """A rank has ended before the run has."""


class RankWatch(Callback):
    """Names the rank that is gone and ends those that are left, which would wait for it: with NCCL, half an hour.

    Every rank holds a connection to the first. A process that is killed closes it; a node that vanishes stops answering
    the probes of TCP keep-alive. Both are the operating system's doing, so that a busy process is never taken for a
    dead one. A rank that hangs is alive; for it there is the strategy's `timeout_seconds`. A rank that fails or is
    interrupted says by what, so that the others can tell.

    Args:
        grace_seconds: how long the rest may take to end by itself, before it is ended.

    Attributes:
        checkpoint: what this rank goes on from, if that is known; it must be the same for all.
        lost: the rank that is gone, None as long as none is.
        fate: what has become of it.
    """

    def __init__(self, grace_seconds: float = 10.0) -> None:
        self.grace_seconds = grace_seconds
        self.checkpoint: str | None = None
        self.lost: str | None = None
        self.fate = GONE
        self._known = threading.Event()  # that one is lost
        self._over = threading.Event()
        self._server: socket.socket | None = None
        self._others: dict[socket.socket, str] = {}
        self._thread: threading.Thread | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connects the ranks."""
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
        """Says goodbye."""
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Says goodbye where the program ends as it is meant to; else what has ended this rank, if not another one."""
        if isinstance(exception, SystemExit) and not exception.code:
            self.close()
        elif self._thread is not None and not (_of_connections(exception) and self._hears_of_loss()):
            self.close(f"\t{_fate(exception)}\n")

    def _hears_of_loss(self) -> bool:
        """Whether another rank is gone; a collective may fail before the news is here.

        A launcher that sends SIGTERM meanwhile is too late: this rank ends within `grace_seconds`. Lightning's handler
        would wait for the others in the middle of this.
        """
        if threading.current_thread() is not threading.main_thread():
            return self._known.wait(NEWS_SECONDS)
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not self._known.wait(NEWS_SECONDS):
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        return self._known.is_set()

    def account(self) -> str:
        """What has become of the rank that is lost, and what to do."""
        log = " See its log." if self.fate == GONE else ""
        return f"{self.lost} {self.fate}.{log} To continue: --ckpt_path last"

    # --- connections --------------------------------------------------------------------------------------------

    def listen(self) -> tuple[int, str]:
        """The first rank's part; its port, and what the others must say."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
        self._secret = secrets.token_hex()
        self._start()
        return self._server.getsockname()[1], self._secret

    def connect(self, address: str, port: int, secret: str, name: str, first: str) -> None:
        """The other ranks' part."""
        try:
            connection = socket.create_connection((address, port), timeout=30)
        except OSError as error:
            print(f"{name} is not watched: port {port} of {address}: {error}", file=sys.stderr, flush=True)
            return
        connection.sendall(f"{secret} {name}".encode())
        self._others[_probing(connection)] = first
        self._start()

    def close(self, last_words: str = BYE) -> None:
        """Ends the watch.

        Args:
            last_words: to the others: no loss, or a line of name, tab and fate; without any, this rank is gone.
        """
        if self._thread is None or self._over.is_set():
            return
        self._over.set()
        self._tell(last_words)
        self._thread.join()
        self._close_sockets()

    def _start(self) -> None:
        os.register_at_fork(after_in_child=self._close_sockets)  # a child would keep the connection of a dead parent
        self._thread = threading.Thread(target=self._listen_to_others, name="rank-watch", daemon=True)
        self._thread.start()

    def _close_sockets(self) -> None:
        for each in (*self._others, *([self._server] if self._server else [])):
            each.close()

    def _tell(self, text: str) -> None:
        for other in list(self._others):
            try:
                other.sendall(text.encode())
            except OSError:  # gone too
                continue

    # --- the thread ---------------------------------------------------------------------------------------------

    def _listen_to_others(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (*self._others, *([self._server] if self._server else [])):
                selector.register(each, selectors.EVENT_READ)
            while not self._over.is_set():
                for key, _ in selector.select(timeout=0.2):
                    connection: Any = key.fileobj
                    if connection is self._server:
                        if (other := self._accept()) is not None:
                            selector.register(other, selectors.EVENT_READ)
                    elif lost := self._hear(connection):
                        if not self._over.is_set():  # both closing at once looks like a loss
                            self._end(*lost)
                        return
                    elif connection not in self._others:
                        selector.unregister(connection)
                        connection.close()

    def _accept(self) -> socket.socket | None:
        """Another rank; None for a stranger."""
        assert self._server is not None
        connection = self._server.accept()[0]
        connection.settimeout(5)
        try:
            secret, _, name = connection.recv(1024).decode().partition(" ")
        except (OSError, UnicodeDecodeError):
            secret = ""
        if not secrets.compare_digest(secret, self._secret):
            connection.close()
            return None
        self._others[_probing(connection)] = name
        return connection

    def _hear(self, connection: socket.socket) -> tuple[str, str] | None:
        """The rank that is gone and its fate, if that is what a connection says."""
        try:
            heard = connection.recv(4096).decode(errors="replace")
        except OSError:
            heard = ""
        if heard == BYE:
            del self._others[connection]
            return None
        name, _, fate = heard.partition("\n")[0].partition("\t")
        return name or self._others[connection], fate or GONE

    def _end(self, lost: str, fate: str) -> None:
        _call_off_observer()
        if self._server:
            self._tell(f"{lost}\t{fate}\n")
        if self._over.wait(TOGETHER_SECONDS):
            return  # this rank has failed by itself
        self.lost, self.fate = lost, fate
        self._known.set()
        print(f"\n{lost} {fate}; the others end within {self.grace_seconds:g} s.", file=sys.stderr, flush=True)
        if not self._over.wait(self.grace_seconds):
            os._exit(1)


def _fate(exception: BaseException) -> str:
    """What is told of a rank that has ended by this."""
    if isinstance(exception, KeyboardInterrupt):
        return "was interrupted by Ctrl-C or SIGINT"
    if isinstance(exception, SystemExit):
        return f"has ended with exit code {exception.code}"
    return " ".join(f"has failed: {type(exception).__name__}: {exception}".split())[:LONGEST].rstrip(".")


def _of_connections(exception: BaseException) -> bool:
    """Whether libraries have raised it, as they do where a collective fails since another rank is gone."""
    frames = [frame for frame, _ in traceback.walk_tb(exception.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    return isinstance(exception, RuntimeError | OSError) and module.partition(".")[0] in LIBRARIES


def _call_off_observer() -> None:
    """Lightning's, which would kill this process without a word as soon as one of its children is gone."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []


def _probing(connection: socket.socket) -> socket.socket:
    """The connection, which finds out by itself when the other end no longer answers."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        idle, interval, count = PROBES
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (idle + interval * count))
    return connection
