"""Each wall by itself: what holds where the other one is missing."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from bots_lightning.rewards.code import CodeReward, SandboxError, sandbox

FILES = """
import os
for path in ("@SECRET@", "/etc/shadow", "/proc/@PARENT@/environ", os.path.expanduser("~root/.bashrc")):
    try:
        print("read", len(open(path).read()))
    except OSError:
        pass
for path in ("@SECRET@", "/usr/written", "/written", "/dev/shm/written", "/harness/inside/written"):
    try:
        print("wrote", open(path, "a").write("x"))
    except OSError:
        pass
print("done")
"""
PROCESSES = """
import os, signal, socket, sys
for number in (signal.SIGTERM, signal.SIGKILL):
    try:
        os.kill(@PARENT@, number)
    except ProcessLookupError:
        print("unseen")
try:
    socket.create_connection(("127.0.0.1", @PORT@))
except OSError:
    print("no way")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", "orphan-of-a-test"])
print("done")
"""


def has_bubblewrap() -> bool:
    try:
        CodeReward()
    except SandboxError:
        return False
    return True


needs_bubblewrap = pytest.mark.skipif(not has_bubblewrap(), reason="bubblewrap cannot start a sandbox here")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes sandboxes of which one module of inside/ does nothing."""

    def change(module: str, code: str) -> None:
        copy = shutil.copytree(sandbox.HARNESS, tmp_path / "copy" / "inside")
        with (copy / module).open("a") as file:
            file.write(code)
        monkeypatch.setattr(sandbox, "HARNESS", copy)

    return change


def output(reward: CodeReward, program: str) -> list[str]:
    program = program.replace("@PARENT@", str(os.getpid()))
    with reward.sandbox.start("script", {"program": program}) as process:
        return process.finish().output.decode().splitlines()


@needs_bubblewrap
def test_bubblewrap_alone_hides_files(without: Any, tmp_path: Path) -> None:
    without("landlock.py", "\n\ndef version(libc):\n    return 0\n")
    secret = tmp_path / "secret"
    secret.write_text("s")
    assert output(CodeReward(), FILES.replace("@SECRET@", str(secret))) == ["done"]
    assert secret.read_text() == "s"


@pytest.mark.skipif(os.geteuid() != 0, reason="other users are kept from the files of others by their modes")
def test_root_without_bubblewrap_and_without_landlock_is_refused(monkeypatch: pytest.MonkeyPatch, without: Any) -> None:
    without("landlock.py", "\n\ndef version(libc):\n    return 0\n")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="root without bubblewrap and without Landlock"):
        CodeReward(allow_unisolated=True)


@needs_bubblewrap
def test_bubblewrap_alone_hides_processes_and_the_network(without: Any) -> None:
    without("seccomp.py", "\n\ndef install(libc):\n    pass\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        lines = output(CodeReward(), PROCESSES.replace("@PORT@", str(listener.getsockname()[1])))
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert lines[:3] == ["unseen", "unseen", "no way"]
    assert "done" in lines
    deadline = time.monotonic() + 3
    while (alive := orphans()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive


def orphans() -> list[str]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_text(errors="replace"))
        except OSError:  # ended since
            continue
    return [command for command in commands if "\0orphan-of-a-test" in command]


def test_a_sandboxed_process_has_no_capabilities_and_a_filter(make_reward: Any, without: Any) -> None:
    grant = "lambda libc, readable, writable: restricted(libc, [*readable, '/proc/self'], writable)"
    without("landlock.py", f"\n\nrestricted = restrict\nrestrict = {grant}\n")
    lines = output(make_reward(), "print(open('/proc/self/status').read())")
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")
