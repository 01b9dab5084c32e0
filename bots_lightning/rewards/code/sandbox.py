"""Runs untrusted Python code.

The threat: a program written by a policy that is rewarded for passing tests. It may be broken (endless, greedy for
memory, noisy) or may have found out that it pays to attack: to forge a verdict, to read the expected values, to kill or
slow down the grader, to outlive its time, to reach files or the network. It runs in a process of its own that

- may not start processes, send signals, open sockets, trace or reprioritise others, mount, or load kernel programs: a
  seccomp filter (inside/seccomp.py). One process and its threads cannot leave orphans, and killing it ends everything;
- has limits on processor time, memory, the size of a file, open files, and by the parent on wall time and output;
- has no capabilities, an empty environment, a session of its own, and dies with the thread that started it;
- reads the system's libraries, Python and the packages that were asked for, and writes to one empty folder: Landlock,
  where the kernel has it (5.13).

What it should print or return is never in its process. Output is compared by the parent; test code runs in a sandbox of
its own (inside/grader.py), and calls the program over a socket that carries plain data.

With bubblewrap (`bwrap`) on the path it runs besides in user, process, network, IPC and host name namespaces of its
own, with a private /proc, /dev and /tmp (of limited size), and of other files there are the libraries only. Files,
processes and the network are then behind two walls of different make.

Without bubblewrap ("unisolated") there is one layer. Not defended then: file names and what the system's folders hold
are readable; what unlinked files take is limited only one by one. On a kernel without Landlock the program reads
whatever the user can read, the environment of the user's processes included, and writes where the user can write; as
root it is refused to run.

Not defended in either mode: the load of the machine within the limits; side channels (time, caches); kernel exploits; a
test that leaves the comparison to the program itself (see inside/remote.py). Linux on x86_64 and aarch64 only.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bots_lightning.rewards.code.inside import seccomp
from bots_lightning.rewards.code.interpreter import compile_harness, describe
from bots_lightning.rewards.code.process import MIB, Confined, Limits, SandboxError

HARNESS = Path(__file__).parent / "inside"
BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from inside.start import main; main()"
SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # more of numpy's would take address space
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/proc/self/fd")


class Sandbox:
    """Starts confined processes.

    Args:
        limits: of each.
        python: the interpreter; the one that runs here by default.
        allow_unisolated: go without bubblewrap where it is not available.
        packages: of this interpreter, visible beside the standard library.

    Attributes:
        modules: names of all top-level modules that can be imported.

    Raises:
        SandboxError: this machine cannot confine processes, or only without bubblewrap, which is not allowed; or a
            package cannot be imported.
    """

    def __init__(
        self,
        limits: Limits,
        python: str | None = None,
        allow_unisolated: bool = False,
        packages: Sequence[str] = (),
    ) -> None:
        if sys.platform != "linux" or not seccomp.supported():
            raise SandboxError(
                f"CodeReward runs programs on Linux only, on x86_64 or aarch64; this is {sys.platform} on "
                f"{platform.machine()}. Train on such a machine or in a container of it, or take another reward."
            )
        self.limits = limits
        interpreter = describe(python or sys.executable, packages)
        self.python, self.prefixes, self.packages = interpreter.executable, interpreter.prefixes, interpreter.packages
        self.modules = frozenset({*interpreter.modules, *packages})
        self.readable = [*self.prefixes, *interpreter.package_files(), *SYSTEM]
        compile_harness(self.python, HARNESS)
        self.stopped = threading.Event()
        self.bubblewrap = shutil.which("bwrap")
        failure = "there is no bwrap on the PATH" if self.bubblewrap is None else self._failure()
        if failure and not allow_unisolated:
            raise SandboxError(
                f"no bubblewrap sandbox can be started ({failure}). Install it (`apt-get install bubblewrap`, `dnf "
                "install bubblewrap`) and allow user namespaces; or set allow_unisolated=true, which leaves programs "
                "one layer of defence: they share the machine's process table and folders, and where the kernel has no "
                "Landlock they read all of your files."
            )
        if failure:
            self.bubblewrap = None
            if failure := self._failure():
                raise SandboxError(f"no process can be confined on this machine: {failure}.")
        for name in packages:
            if failure := self._failure(f"import {name}\n"):
                raise SandboxError(
                    f"packages={list(packages)}: {name} cannot be imported in the sandbox ({failure}). "
                    "Name the packages that it needs too, raise memory_mb, or leave it out."
                )

    @contextlib.contextmanager
    def start(
        self, role: str, job: dict[str, Any], stdin: bytes = b"", channel: int | None = None, expected: int = 0
    ) -> Iterator[Confined]:
        """A confined process, killed on leaving the context.

        Args:
            role: `script`, `serve` or `grader`, each a module in inside/.
            job: JSON for it.
            stdin: its standard input.
            channel: a socket that it inherits; `job["channel"]` names it.
            expected: bytes of output that are allowed beyond the limit.

        Yields:
            The process.

        Raises:
            SandboxError: it does not start.
        """
        with contextlib.ExitStack() as stack:
            folder = "/tmp"
            if self.bubblewrap is None:
                folder = stack.enter_context(_private_folder())
            job_fd = stack.enter_context(_memory_file(json.dumps({**job, "terms": self._terms(folder)}).encode()))
            stdin_fd = stack.enter_context(_memory_file(stdin))
            ready, sign = os.pipe()
            stack.callback(os.close, ready)
            try:
                command = self._command(folder, role, str(job_fd), str(sign))
                process = subprocess.Popen(
                    command,
                    stdin=stdin_fd,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=[fd for fd in (job_fd, sign, channel) if fd is not None],
                    env={"LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder, **ONE_THREAD},
                    cwd="/" if self.bubblewrap else folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxError(f"{command[0]} did not start: {error}") from error
            finally:
                os.close(sign)
            stack.enter_context(process)
            watched = None if self.bubblewrap else folder
            confined = Confined(process, ready, self.limits, self.stopped, watched, expected)
            try:
                yield confined
            finally:
                confined.kill()

    def _terms(self, folder: str) -> dict[str, Any]:
        return {
            **asdict(self.limits),
            "readable": [*self.readable, *DEVICES],
            "writable": [folder, *DEVICES[:2]],
            "parent": 0 if self.bubblewrap else os.getpid(),
            "packages": self.packages,
        }

    def _command(self, folder: str, *arguments: str) -> list[str]:
        harness = "/harness" if self.bubblewrap else str(HARNESS.parent)
        python = [self.python, "-I", "-S", "-B", "-X", "utf8", "-c", BOOT, harness, *arguments]
        if self.bubblewrap is None:
            return python
        namespaces = [f"--unshare-{kind}" for kind in ("user", "pid", "net", "ipc", "uts", "cgroup-try")]
        nobody = ["--uid", "65534", "--gid", "65534", "--cap-drop", "ALL", "--new-session", "--die-with-parent"]
        system = [word for path in self.readable for word in ("--ro-bind-try", path, path)]
        harness_files = ["--ro-bind", str(HARNESS), f"{harness}/inside"]
        devices = ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
        private = ["--size", str(self.limits.max_file_mb * MIB), "--tmpfs", folder, "--chdir", folder]
        files = [*private, *system, *harness_files, *devices, "--remount-ro", "/"]
        return [self.bubblewrap, *namespaces, *nobody, *files, "--", *python]

    def _failure(self, imports: str = "") -> str:
        """Why a trivial program does not run, or ""."""
        program = f"try:\n    {imports or 'pass'}\n    print(6 * 7)\nexcept BaseException as error:\n    print(error)"
        try:
            with self.start("script", {"program": program}) as confined:
                finished = confined.finish()
        except SandboxError as error:
            return str(error)
        if imports and finished.output and finished.output != b"42\n":
            return finished.output.decode(errors="replace").strip()
        return "" if finished.output == b"42\n" else f"a trivial program ended with {finished}"


@contextlib.contextmanager
def _private_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="bots-code-")
    try:
        yield folder
    finally:
        with contextlib.suppress(RecursionError):  # folders in folders, which only Landlock forbids
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    """A file that has no name, at its start."""
    fd = os.memfd_create("input")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
