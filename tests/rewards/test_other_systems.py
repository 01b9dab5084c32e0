"""What only Linux has is asked for on Linux only."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from bots_lightning.rewards import MathReward
from bots_lightning.rewards.code import CodeReward, SandboxError
from bots_lightning.rewards.worker import usable_cores
from bots_lightning.rewards.worker_process import limit

# Names of the standard library that macOS lacks.
LINUX_ONLY = ("sched_getaffinity", "memfd_create", "pidfd_open", "posix_fadvise", "eventfd", "copy_file_range")
IMPORTS = f"""
import os, sys
for name in {LINUX_ONLY}:
    if hasattr(os, name):
        delattr(os, name)
import bots_lightning.cli, bots_lightning.rewards, bots_lightning.tasks, bots_lightning.rollouts, callbacks
from bots_lightning.rewards import MathReward
sys.platform = "darwin"  # only now: other packages load what is their system's
reward = MathReward()
print(reward(["1+1="] * 2, ["#### 2", "#### 3"], ["2", "2"]))
reward.close()
"""


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as Python tells."""
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in LINUX_ONLY:
        monkeypatch.delattr(os, name, raising=False)


@pytest.mark.usefixtures("mac")
def test_cores_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for counted, cores in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda counted=counted: counted)
        assert usable_cores() == cores
    assert MathReward()._pool.num_workers == 1


def test_cores_on_linux_are_those_of_this_process() -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("mac")
def test_code_is_for_linux_and_says_so() -> None:
    with pytest.raises(SandboxError, match=r"^CodeReward runs programs on Linux only, .*; this is darwin on .*"):
        CodeReward()


@pytest.mark.parametrize(("system", "limits"), [("linux", ["CORE", "AS"]), ("darwin", ["CORE"])])
def test_memory_is_limited_where_the_system_can(
    system: str, limits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, bounds: asked.append(kind))
    limit(2**30)
    assert asked == [getattr(resource, f"RLIMIT_{name}") for name in limits]


def test_everything_imports_and_grades_without_what_linux_has() -> None:
    ended = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "[1.0, 0.0]\n"), ended.stderr
