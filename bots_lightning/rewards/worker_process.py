"""The far end of a `WorkerPool`: a process that has loaded a function, and its child that runs items, one by one.

Run as a script, by file name. It imports nothing of this package, and so nothing but what the function itself needs. A
child whose item takes too long is ended by the kernel, and the next one is forked with everything loaded: a kill costs
milliseconds, not a start. Both outlive Ctrl-C and SIGTERM, which are meant for the run, and end with the pipe; should
the pool's process die, they end by themselves.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

# Seconds: how often an idle child looks for its parent, and how long after its limit a busy one ends by itself.
PARENT_CHECK = 1.0
GRACE = 1.0


def load(path: str) -> Callable[[Any], Any]:
    """Imports the function `package.module:name`."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def limit(memory_bytes: int | None) -> None:
    """Limits the address space, where the system can; a crash writes no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None and sys.platform == "linux":  # macOS refuses
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def await_item(connection: Connection, parent: int) -> Any:
    """The next item; ends the process when there is nobody left to send one."""
    try:
        while not connection.poll(PARENT_CHECK):
            if os.getppid() != parent:
                sys.exit()
        return connection.recv()
    except (EOFError, ConnectionError):
        sys.exit()


def run(function: Callable[[Any], Any], item: Any, wall_seconds: float, cpu_seconds: float = 0.0) -> tuple[str, Any]:
    """Runs one item under time limits.

    The default action of both alarms needs no interpreter, so that they also end a call that never returns from C.

    Args:
        function: of the item.
        item: its argument.
        wall_seconds: wall time.
        cpu_seconds: processor time; 0 for no limit.

    Returns:
        The message for the pool: ("done", result) or ("error", text).
    """
    signal.setitimer(signal.ITIMER_REAL, wall_seconds + GRACE)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
        return "done", function(item)
    except Exception as error:  # counted by the pool as this item's error
        return "error", f"{type(error).__name__}: {error}"[:1000]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def serve(connection: Connection, parent: int, busy: mmap.mmap, function: Callable[[Any], Any], order: Any) -> None:
    """Runs items until the pipe closes."""
    while True:
        item = await_item(connection, parent)
        busy[0] = 1
        said = run(function, item, order["wall_seconds"], order["timeout_seconds"])
        busy[0] = 0
        connection.send(said)


def main(descriptor: int, parent: int) -> None:
    """Loads the function under the clock of the start, says so, and then has one child after another serve."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    for ends in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(ends, signal.SIG_DFL)
    connection = Connection(descriptor)
    order = await_item(connection, parent)
    sys.path[:] = order["sys_path"]
    limit(order["memory_bytes"])
    function = None

    def start(rehearsal: list[Any]) -> None:
        nonlocal function
        function = load(order["function"])
        for item in rehearsal:
            function(item)

    connection.send(run(start, order["rehearsal"], order["start_seconds"]))
    loaded, busy = os.getpid(), mmap.mmap(-1, 1)
    while function is not None:
        child = os.fork()
        if not child:
            serve(connection, loaded, busy, function, order)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:  # nobody is left to send an item
            return
        if busy[0]:
            busy[0] = 0
            late = code in (-signal.SIGPROF, -signal.SIGALRM)
            connection.send(("timeout", None) if late else ("error", f"its process died with exit code {code}"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
