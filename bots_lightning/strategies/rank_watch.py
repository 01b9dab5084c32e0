"""Ranks notice when one of them is gone."""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import sys
import threading
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback

PROBES = (10, 5, 4)  # seconds of silence before the first, seconds between, how many: a vanished node after 30 s
BYE = "bye"


class LostRankError(ConnectionError):
    """A rank has ended before the run has."""


class RankWatch(Callback):
    """Names the rank that is gone and ends those that are left, which would wait for it: with NCCL, half an hour.

    Every rank holds a connection to the first. A process that is killed closes it; a node that vanishes stops answering
    the probes of TCP keep-alive. Both are the operating system's doing, so that a busy process is never taken for a
    dead one. A rank that hangs is alive; for it there is the strategy's `timeout_seconds`.

    Args:
        grace_seconds: how long the rest may take to end by itself, before it is ended.

    Attributes:
        lost: the rank that is gone, None as long as none is.
    """

    def __init__(self, grace_seconds: float = 10.0) -> None:
        self.grace_seconds = grace_seconds
        self.lost: str | None = None
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

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Says goodbye."""
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Says goodbye where the program ends as it is meant to; else this rank is lost to the others, or one to it."""
        if isinstance(exception, KeyboardInterrupt) or (isinstance(exception, SystemExit) and not exception.code):
            self.close()
        elif self._thread is not None and not self._known.wait(2):  # a collective may fail before the news is here
            self.close("")

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
        """Ends the watch; the others are told that this is no loss, unless last words are missing."""
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
                            self._end(lost)
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

    def _hear(self, connection: socket.socket) -> str | None:
        """The name of the rank that is gone, if that is what a connection says."""
        try:
            heard = connection.recv(1024).decode()
        except OSError:
            heard = ""
        if heard == BYE:
            del self._others[connection]
            return None
        return heard or self._others[connection]

    def _end(self, lost: str) -> None:
        self.lost = lost
        self._known.set()
        if self._server:
            self._tell(lost)
        print(f"\n{lost} is gone; the others end within {self.grace_seconds:g} s.", file=sys.stderr, flush=True)
        if not self._over.wait(self.grace_seconds):
            os._exit(1)


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
