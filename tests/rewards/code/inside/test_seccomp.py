"""The filter, run by an interpreter of its few instructions, on both architectures."""

from __future__ import annotations

import errno

import pytest

from bots_lightning.rewards.code.inside import seccomp

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
X86, ARM = 0xC000003E, 0xC00000B7


def verdict(machine: str, architecture: int, call: int, *arguments: int) -> int:
    """What the filter of a machine says of a system call; the layout of its data is that of seccomp(2)."""
    data = {0: call, 4: architecture, **{16 + 8 * i: value & 0xFFFFFFFF for i, value in enumerate(arguments)}}
    program, at, accumulator = seccomp.build(machine), 0, 0
    while True:
        code, true, false, operand = program[at]
        at += 1
        if code == 0x20:
            accumulator = data.get(operand, 0)
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            at += true if holds[code] else false


@pytest.mark.parametrize(
    ("machine", "architecture", "read", "write", "execve", "socket", "socketpair"),
    [("x86_64", X86, 0, 1, 59, 41, 53), ("aarch64", ARM, 63, 64, 221, 198, 199)],
)
def test_refused_and_allowed_calls(
    machine: str, architecture: int, read: int, write: int, execve: int, socket: int, socketpair: int
) -> None:
    column = {"x86_64": 0, "aarch64": 1}[machine]
    for call in (read, write, socketpair):
        assert verdict(machine, architecture, call) == ALLOW
    assert {execve, socket} < {numbers[column] for numbers in seccomp.REFUSED.values()}
    for numbers in seccomp.REFUSED.values():
        if numbers[column] >= 0:
            assert verdict(machine, architecture, numbers[column]) == EPERM
    assert verdict(machine, architecture, 435) == ENOSYS
    assert len(seccomp.build(machine)) < 4096


@pytest.mark.parametrize(
    ("machine", "architecture", "clone", "prlimit", "fcntl", "ioctl", "prctl"),
    [("x86_64", X86, 56, 302, 72, 16, 157), ("aarch64", ARM, 220, 261, 25, 29, 167)],
)
def test_calls_that_depend_on_an_argument(
    machine: str, architecture: int, clone: int, prlimit: int, fcntl: int, ioctl: int, prctl: int
) -> None:
    thread, process = 0x3D0F00, 0x1200011  # the flags of the C library for a thread and for a fork
    for call, arguments, expected in (
        (clone, (thread,), ALLOW),
        (clone, (process,), EPERM),
        (prlimit, (0, 7), ALLOW),
        (prlimit, (4711, 7), EPERM),
        (fcntl, (0, 3), ALLOW),
        (fcntl, (0, 8), EPERM),
        (fcntl, (0, 15), EPERM),
        (ioctl, (0, 0x5401), ALLOW),
        (ioctl, (0, 0x5412), EPERM),
        (prctl, (15,), ALLOW),
        (prctl, (1, 0), EPERM),
    ):
        assert verdict(machine, architecture, call, *arguments) == expected


def test_other_sets_of_system_calls_are_deadly() -> None:
    assert verdict("x86_64", 0x40000003, 4) == KILL  # int 0x80
    assert verdict("x86_64", X86, 0x40000000 + 520) == KILL  # execve of x32
    assert verdict("aarch64", X86, 59) == KILL
