"""The connections by which ranks watch each other: each rank holds one to the first."""

from __future__ import annotations

import secrets
import selectors
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

PROBES = (10, 5, 4)  # seconds of silence before the first, seconds between, how many: a vanished node after 30 s
ACCEPT_SECONDS = 5.0  # until a new connection has said who it is
GOODBYE = "bye\n"
GONE = "is gone"  # of a rank that could not say what has ended it


class Connections:
    """A rank's connections to the others: of the first rank to each other rank, of the others to the first.

    A message is `GOODBYE`, or a line of a rank's name, a tab and its fate. A connection that closes without one is the
    end of its rank.
    """

    def __init__(self) -> None:
        self.others: dict[socket.socket, str] = {}  # with the name of the rank at the other end
        self.server: socket.socket | None = None
        self._secret = ""

    def listen(self) -> tuple[int, str]:
        """Opens a port at the first rank; returns it, and the secret that the others must send."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self.server = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
        self._secret = secrets.token_hex()
        return self.server.getsockname()[1], self._secret

    def connect(self, address: str, port: int, secret: str, name: str, first: str) -> None:
        """Connects another rank to the first.

        Args:
            address: of the first rank.
            port: that it has opened.
            secret: that it expects.
            name: of this rank.
            first: name of the first rank.

        Raises:
            OSError: the port cannot be reached.
        """
        connection = socket.create_connection((address, port), timeout=30)
        connection.sendall(f"{secret} {name}".encode())
        self.others[_probed(connection)] = first

    def send(self, message: str) -> None:
        """Sends a message to all others that can still be reached."""
        for other in list(self.others):
            with suppress(OSError):  # gone too
                other.sendall(message.encode())

    def close(self) -> None:
        """Closes all sockets."""
        for each in self._sockets():
            each.close()

    def losses(self) -> Iterator[tuple[str, str] | None]:
        """Listens without end: the name and the fate of a rank that is gone, or None if nothing was lost for a while.

        The first rank also accepts the connections of the others here.
        """
        with selectors.DefaultSelector() as selector:
            for each in self._sockets():
                selector.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(timeout=0.2):
                    connection: Any = key.fileobj
                    if connection is self.server:
                        if (other := self._accept()) is not None:
                            selector.register(other, selectors.EVENT_READ)
                    elif (lost := self._hear(connection)) is not None:
                        yield lost
                    else:
                        selector.unregister(connection)
                        connection.close()
                yield None

    def _sockets(self) -> list[socket.socket]:
        return [*self.others, *([self.server] if self.server else [])]

    def _accept(self) -> socket.socket | None:
        """The connection of another rank; None for a stranger."""
        assert self.server is not None
        connection = self.server.accept()[0]
        connection.settimeout(ACCEPT_SECONDS)
        try:
            secret, _, name = connection.recv(1024).decode().partition(" ")
        except (OSError, UnicodeDecodeError):
            secret = ""
        if not secrets.compare_digest(secret, self._secret):
            connection.close()
            return None
        self.others[_probed(connection)] = name
        return connection

    def _hear(self, connection: socket.socket) -> tuple[str, str] | None:
        """The rank that is gone and its fate; None if the other end said goodbye."""
        try:
            heard = connection.recv(4096).decode(errors="replace")
        except OSError:
            heard = ""
        if heard == GOODBYE:
            del self.others[connection]
            return None
        name, _, fate = heard.partition("\n")[0].partition("\t")
        return name or self.others[connection], fate or GONE


def _probed(connection: socket.socket) -> socket.socket:
    """The connection, set to find out by itself when the other end no longer answers."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        idle, interval, count = PROBES
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (idle + interval * count))
    return connection
