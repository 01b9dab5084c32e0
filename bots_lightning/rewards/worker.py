"""The near end of a worker: its process and the pipe to it."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

from bots_lightning.rewards import worker_process


class Worker:
    """A process and its child (see `worker_process`), the pipe to them and the item that they run.

    Attributes:
        started: whether it has reported that it is ready.
        item: the number of the item that it runs, None if it waits for one.
        deadline: when to kill it, by `time.monotonic()`; of its start, or of its item.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        self.connection, far_end = Pipe()
        # A group of its own: what a terminal or a launcher sends to the run's group is not for the workers.
        # A new interpreter, not a fork: this process may hold torch's threads and a GPU.
        self.process = subprocess.Popen(
            [sys.executable, worker_process.__file__, str(far_end.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[far_end.fileno()],
            process_group=0,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        far_end.close()
        self.started = False
        self.item: int | None = None
        self.deadline = time.monotonic() + order["start_seconds"]
        self.send(ForkingPickler.dumps(order))

    @property
    def idle(self) -> bool:
        """Whether it waits for an item."""
        return self.started and self.item is None

    def send(self, message: Any) -> bool:
        """Sends a message; whether there was a process to receive it."""
        try:
            self.connection.send_bytes(message)
        except ConnectionError:
            return False
        return True

    def receive(self) -> tuple[Literal["done", "timeout", "error"], Any] | None:
        """Its next message, or None if it has died."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            return None

    def exit_code(self) -> str:
        """How it ended, in words."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        return f"exit code {self.process.returncode}"

    def kill(self) -> None:
        """Ends the process and its child, and returns when they are gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(EOFError, OSError):
            while self.connection.poll(1.0):
                self.connection.recv_bytes()
        self.connection.close()


def usable_cores() -> int:
    """Cores that this process may use; all of the machine's where the system does not report them."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def path_of(function: Callable[[Any], Any]) -> str:
    """`package.module:name` of a top-level function.

    Raises:
        ValueError: another process could not import it.
    """
    if not inspect.isfunction(function) or "." in function.__qualname__ or function.__module__ == "__main__":
        raise ValueError(f"{function!r} cannot be imported by a worker; expected a top-level function of a module.")
    return f"{function.__module__}:{function.__qualname__}"
