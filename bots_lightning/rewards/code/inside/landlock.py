"""Landlock: file access that this process gives up, without privileges (Linux 5.13 or later).

Paths that are not granted can be neither read nor written, and processes outside cannot be traced, which closes their
memory and environment in /proc. Numbers and structures are those of landlock(7).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
VERSION_FLAG, PATH_BENEATH = 1, 1
PR_SET_NO_NEW_PRIVS = 38

READ = 0b1100  # files and folders
WRITE = READ | 1 << 1 | 1 << 5 | 1 << 8 | 1 << 14  # contents, remove, make and truncate files: no folders, no links
ON_FILES = 1 << 1 | 1 << 2 | 1 << 14  # rights that a single file can have: write, read, truncate
RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # bits that each version of the interface knows; 16 since 5


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def version(libc: ctypes.CDLL) -> int:
    """Of the kernel's interface; 0 or less where there is none."""
    return int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG))


def restrict(libc: ctypes.CDLL, readable: Iterable[str], writable: Iterable[str]) -> None:
    """Leaves this process those paths only, and what is below them; those that do not exist are passed over.

    Raises:
        OSError: the kernel refuses.
    """
    handled = (1 << RIGHTS_OF_VERSION.get(version(libc), 16)) - 1
    attributes = ctypes.c_uint64(handled)
    ruleset = _checked(libc.syscall(CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(8), 0))
    for path in readable:
        _grant(libc, ruleset, path, READ)
    for path in writable:
        _grant(libc, ruleset, path, WRITE & handled)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _grant(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    if not os.path.exists(path):
        return
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = _PathBeneath(rights if os.path.isdir(path) else rights & ON_FILES, folder)
    _checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0))
    os.close(folder)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "a Landlock call failed")
    return result
