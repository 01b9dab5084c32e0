"""What a process gives up before it runs code that is not trusted."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Any

from . import landlock, seccomp

PR_SET_PDEATHSIG = 1
CAPABILITY_VERSION = 0x20080522
OPEN_FILES = 64
MIB = 2**20


def confine(terms: dict[str, Any]) -> None:
    """Sets limits, dies with its parent, drops capabilities, files and system calls; none of it can be undone.

    Args:
        terms: `cpu_seconds`, `memory_mb`, `max_file_mb`; `readable` and `writable` paths; `parent`, the process id
            without which to end, or 0.

    Raises:
        OSError: the kernel refuses a step.
        PermissionError: root without Landlock, which would leave all files open.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _limit(terms)
    _drop_capabilities(libc)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if terms["parent"] not in (0, os.getppid()):  # it died before it could be watched
        os._exit(1)
    if landlock.version(libc) > 0:
        landlock.restrict(libc, terms["readable"], terms["writable"])
    elif terms["parent"] and os.geteuid() == 0:
        raise PermissionError("root without bubblewrap and without Landlock; expected one of them, or another user")
    seccomp.install(libc)


def _limit(terms: dict[str, Any]) -> None:
    cpu_seconds = terms["cpu_seconds"]
    limits = {
        # A program that ignores the signal of the first second is killed in the next.
        resource.RLIMIT_CPU: (cpu_seconds, cpu_seconds + 1),
        resource.RLIMIT_AS: (terms["memory_mb"] * MIB,) * 2,
        resource.RLIMIT_FSIZE: (terms["max_file_mb"] * MIB,) * 2,
        resource.RLIMIT_NOFILE: (OPEN_FILES,) * 2,
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, (soft, hard) in limits.items():
        _, ceiling = resource.getrlimit(kind)
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")
