"""A seccomp filter: the system calls that a confined process is refused.

Everything that it does not name stays allowed. A refused call fails with EPERM, so that a program sees PermissionError.
The layout of filters and of `seccomp_data` is that of seccomp(2) and linux/bpf_common.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform

# Audit architecture, and the column of the tables below.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# (x86_64, aarch64); -1 where the architecture lacks the call.
REFUSED = {
    # other programs and processes: whoever cannot fork leaves no orphan
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    # signals, even to oneself
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    # the memory, files and priority of other processes
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # the network, and Unix sockets of the host; socketpair stays, asyncio needs it
    "socket": (41, 198),
    # memory that RLIMIT_AS does not count
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    # what Landlock leaves open: modes, owners and times of files, and before its third version truncation
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "truncate": (76, 45),
    # large or privileged parts of the kernel
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
}
CLONE = (56, 220)
CLONE3 = (435, 435)
PRLIMIT64 = (302, 261)
# (call, index of the argument, its refused values)
REFUSED_ARGUMENTS = (
    ((72, 25), 1, (8, 10, 15)),  # fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX send signals
    ((16, 29), 1, (0x5412, 0x8901, 0x8902)),  # ioctl: TIOCSTI types into a terminal, FIOSETOWN and SIOCSPGRP signal
    ((157, 167), 0, (1,)),  # prctl: PR_SET_PDEATHSIG would outlive the parent
)
CLONE_THREAD = 0x10000
X32_CALLS = 0x40000000  # a second set of numbers for the same calls on x86_64

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL, ALLOW, FAIL = 0x80000000, 0x7FFF0000, 0x00050000
REFUSE = FAIL | errno.EPERM
OFFSET_CALL, OFFSET_ARCHITECTURE = 0, 4

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class _Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("true", ctypes.c_ubyte), ("false", ctypes.c_ubyte), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.POINTER(_Filter))]


def supported() -> bool:
    """Whether the numbers of this machine's system calls are known."""
    return platform.machine() in ARCHITECTURES


def build(machine: str) -> list[Instruction]:
    """The filter for an architecture."""
    architecture, column = ARCHITECTURES[machine]
    program: list[Instruction] = [
        (LOAD, 0, 0, OFFSET_ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, OFFSET_CALL),
        (JUMP_AT_LEAST, 0, 1, X32_CALLS),
        (RETURN, 0, 0, KILL),
    ]
    for numbers in REFUSED.values():
        if numbers[column] >= 0:
            program += [(JUMP_EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, REFUSE)]
    # The flags of clone3 lie in memory, out of a filter's sight; without it the C library falls back to clone.
    program += [(JUMP_EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, FAIL | errno.ENOSYS)]
    program += _on_argument(CLONE[column], 0, [(JUMP_BITS, 1, 0, CLONE_THREAD), (RETURN, 0, 0, REFUSE)])
    program += _on_argument(PRLIMIT64[column], 0, [(JUMP_EQUAL, 1, 0, 0), (RETURN, 0, 0, REFUSE)])
    for numbers, index, values in REFUSED_ARGUMENTS:
        checks: list[Instruction] = []
        for value in values:
            checks += [(JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, REFUSE)]
        program += _on_argument(numbers[column], index, checks)
    return [*program, (RETURN, 0, 0, ALLOW)]


def _on_argument(call: int, index: int, checks: list[Instruction]) -> list[Instruction]:
    """Runs the checks on the low 32 bits of an argument of one call, and leaves the call's number loaded."""
    return [
        (JUMP_EQUAL, 0, len(checks) + 2, call),
        (LOAD, 0, 0, 16 + 8 * index),
        *checks,
        (LOAD, 0, 0, OFFSET_CALL),
    ]


def install(libc: ctypes.CDLL) -> None:
    """Loads the filter into this process, for good.

    Raises:
        OSError: the kernel refuses.
    """
    instructions = build(platform.machine())
    filters = (_Filter * len(instructions))(*(_Filter(*instruction) for instruction in instructions))
    program = _Program(len(instructions), filters)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))):
        if libc.prctl(*arguments, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({arguments[0]}) failed: the kernel lacks seccomp filters")
