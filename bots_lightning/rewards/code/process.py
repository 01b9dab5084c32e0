"""A process in a sandbox, watched from outside: time, output, files, and whether it ever started."""

from __future__ import annotations

import contextlib
import math
import os
import select
import subprocess
import threading
import time
from dataclasses import dataclass
from signal import SIGKILL, SIGXCPU

from bots_lightning.options import check_numbers

POLL_SECONDS = 0.05
GRACE_SECONDS = 0.2  # for a process that ends by itself
OUT_OF_CPU_TIME = (-SIGXCPU, -SIGKILL, 128 + SIGXCPU, 128 + SIGKILL)  # bubblewrap adds 128
MOST_FILES = 1000  # in the private folder
MIB = 2**20


class SandboxError(RuntimeError):
    """A sandbox did not start, or is not available on this machine."""


@dataclass(frozen=True)
class Limits:
    """What one process may use.

    Attributes:
        timeout_seconds: wall time.
        cpu_seconds: processor time of all its threads.
        memory_mb: address space, MiB.
        max_output_kb: standard output beyond what is expected, KiB.
        max_file_mb: one file, and all files together, MiB.

    Raises:
        ValueError: one is out of bounds.
    """

    timeout_seconds: float
    cpu_seconds: int
    memory_mb: int
    max_output_kb: int
    max_file_mb: int

    def __post_init__(self) -> None:
        names = ("cpu_seconds", "memory_mb", "max_output_kb", "max_file_mb")
        check_numbers(1, **{name: getattr(self, name) for name in names})
        if not (math.isfinite(self.timeout_seconds) and self.timeout_seconds > 0):
            raise ValueError(f"timeout_seconds={self.timeout_seconds}; expected a finite number above 0.")


@dataclass(frozen=True)
class Finished:
    """How a process ended.

    Attributes:
        output: standard output, cut at the limit.
        code: exit status; negative or above 128 after a signal.
        timed_out: it took too much wall or processor time.
        overflowed: it wrote too much, and was killed.
    """

    output: bytes
    code: int
    timed_out: bool
    overflowed: bool


class Confined:
    """A process that runs in a sandbox.

    Args:
        process: with pipes for standard output and for errors.
        ready: the pipe on which it shows that it has confined itself.
        limits: of wall time, output and files.
        stopped: set when all processes are to end.
        folder: its private folder on this file system, watched for its size.
        expected: bytes of output that are allowed beyond the limit.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        ready: int,
        limits: Limits,
        stopped: threading.Event,
        folder: str | None,
        expected: int = 0,
    ) -> None:
        self.process, self.ready, self.limits, self.stopped, self.folder = process, ready, limits, stopped, folder
        self.expected = expected
        self.deadline = time.monotonic() + limits.timeout_seconds

    def finish(self, *partners: Confined) -> Finished:
        """Reads its output until it ends or exceeds a limit.

        Args:
            partners: processes that it talks with, whose folders are watched with its own.

        Returns:
            How it ended.

        Raises:
            SandboxError: it ended without having confined itself, so that nothing was run.
        """
        output = bytearray()
        too_late = overflowed = False
        assert self.process.stdout is not None
        poller = select.poll()
        poller.register(self.process.stdout, select.POLLIN)
        while not overflowed:
            too_late = time.monotonic() > self.deadline or self.stopped.is_set()
            if too_late:
                break
            if poller.poll(1000 * POLL_SECONDS):
                part = os.read(self.process.stdout.fileno(), 2**16)
                if not part:
                    too_late = not self._ends()
                    break
                output += part
            full = any(process.folder_is_full() for process in (self, *partners))
            overflowed = full or len(output) > self.expected + 1024 * self.limits.max_output_kb
        code = self.kill()
        self._check_started()
        return Finished(bytes(output), code, too_late or (code in OUT_OF_CPU_TIME and not overflowed), overflowed)

    def stop(self) -> bool:
        """Ends it once nobody needs it any more.

        Returns:
            Whether it had run out of processor time.

        Raises:
            SandboxError: it had ended without having confined itself.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        code = self.process.poll()
        self.kill()
        self._check_started()
        return code in OUT_OF_CPU_TIME

    def kill(self) -> int:
        """Ends it if it runs still; its exit status."""
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()

    def _check_started(self) -> None:
        if not os.read(self.ready, 1):
            assert self.process.stderr is not None
            reason = os.read(self.process.stderr.fileno(), 4096).decode(errors="replace").strip()
            raise SandboxError(reason or f"the process ended with {self.process.returncode} before it was confined")

    def _ends(self) -> bool:
        """Whether it ends by its deadline, having closed its output."""
        while time.monotonic() < self.deadline and not self.stopped.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(POLL_SECONDS)
                return True
        return False

    def folder_is_full(self) -> bool:
        """Whether its private folder holds too much."""
        if self.folder is None:
            return False
        total = 0
        with os.scandir(self.folder) as entries:
            for count, entry in enumerate(entries):
                with contextlib.suppress(OSError):  # gone since
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                if count == MOST_FILES or total > self.limits.max_file_mb * MIB:
                    return True
        return False
