"""Inference servers for tests: real processes and HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "assets" / "rollout_server.py"


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
        os.kill(self.started[url], number)

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()
