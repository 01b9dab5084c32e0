"""Inference servers in processes of their own, a policy with adapters, and static caches without the compiler."""

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
import torch
from rollout_helpers import moved
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from bots_lightning.policy.loading import LoRA, load_policy
from bots_lightning.rollouts import decoding
from bots_lightning.rollouts.static import next_logits

SCRIPT = Path(__file__).parents[1] / "assets" / "rollout_server.py"


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
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Static caches, and steps that are not compiled."""
    monkeypatch.setattr(decoding, "compiled_step", lambda _: next_logits)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """Counts the graphs that are compiled; they are not optimised."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    step = torch.compile(next_logits, backend=counter)
    monkeypatch.setattr(decoding, "compiled_step", lambda _: step)
    yield counter
    torch._dynamo.reset()


@pytest.fixture
def url(servers: Servers, checkpoint: str) -> str:
    """Of a server of the checkpoint's model."""
    return servers.start(checkpoint)


@pytest.fixture
def policy(checkpoint: str) -> nn.Module:
    """With adapters that matter."""
    return moved(load_policy(checkpoint, LoRA(r=4, alpha=8)).eval(), seed=0)
