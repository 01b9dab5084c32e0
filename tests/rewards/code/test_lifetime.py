"""Whatever ends the process that trains ends the sandboxes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TRAIN = """
import sys
from bots_lightning.rewards.code import CodeReward
reward = CodeReward(timeout_seconds=30, cpu_seconds=30, memory_mb=256, num_workers=2, allow_unisolated=True)
program = "import ctypes, time\\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\\n# MARKER\\ntime.sleep(60)"
print("ready", flush=True)
reward(["?"] * 2, [program, program + "\\ndef f(): pass"], ['{"inputs": ["1"], "outputs": ["1"]}', "assert f() == 1"])
"""


def descendants(pid: int) -> set[int]:
    """Process ids below one, from the kernel's lists of children."""
    found = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child} | descendants(child)
    return found


def wait_for(condition: object, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.05)
    return condition()  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize("mode", ["bubblewrap", "unisolated"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_no_sandbox_outlives_the_training_process(number: signal.Signals, mode: str, tmp_path: Path) -> None:
    if mode == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("there is no bubblewrap")
    path = os.environ["PATH"] if mode == "bubblewrap" else "/nonexistent"
    environment = {**os.environ, "PATH": path, "TMPDIR": str(tmp_path)}
    training = subprocess.Popen(
        [sys.executable, "-c", TRAIN], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    with training:
        assert training.stdout is not None
        assert training.stdout.readline() == b"ready\n"
        started: set[int] = set()
        sandboxes = 3  # a program, and another with its grader
        processes = sandboxes * (3 if mode == "bubblewrap" else 1)

        def all_run() -> bool:
            started.update(descendants(training.pid))
            return len(descendants(training.pid)) >= processes

        assert wait_for(all_run, 10)
        time.sleep(0.5)  # the programs are past their start
        started |= descendants(training.pid)
        training.send_signal(number)
        assert training.wait(5) != 0
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 3)
    if number == signal.SIGINT:  # Python unwinds, and so cleans up
        assert list(tmp_path.iterdir()) == []
