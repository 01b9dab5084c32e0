"""Test servers that are started and killed, in a process of their own; see `rollout_server.py`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("rollout_server.py")


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


class Servers:
    """Starts and kills test servers; all end with it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.started: dict[str, int] = {}  # process ids by URL

    def start(self, folder: str, url: str | None = None) -> str:
        """The URL of a server of that model, which knows no adapters; the same as before if one is given."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{url.rpartition(':')[2] if url else 0} {folder}\n")
        self.process.stdin.flush()
        pid, port = self.process.stdout.readline().split()
        self.started[f"http://127.0.0.1:{port}"] = int(pid)
        return f"http://127.0.0.1:{port}"

    def signal(self, url: str, number: signal.Signals) -> None:
        """Sends a signal; a server that is killed has closed its port when this returns."""
        os.kill(self.started[url], number)
        while number == signal.SIGKILL and is_open(int(url.rpartition(":")[2])):
            time.sleep(0.01)

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Starts servers; they end with the session."""
    servers = Servers()
    yield servers
    servers.close()
