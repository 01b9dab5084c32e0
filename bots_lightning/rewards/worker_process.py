"""The far end of a `WorkerPool`: a process that judges one item after another. Run as a script, by file name.

It imports nothing of this package, and so nothing but what the function itself needs. It outlives Ctrl-C and SIGTERM,
which are meant for the run, and ends with the pipe; should the pool's process die, it ends by itself.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

# Seconds: how often an idle worker looks for its parent, and how long after its limit a busy one ends by itself.
PARENT_CHECK = 1.0
GRACE = 1.0


def load(path: str) -> Callable[[Any], Any]:
    """The function that `package.module:name` means."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def limit(memory_bytes: int | None) -> None:
    """Bounds the address space; a crash writes no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes is not None:
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


def judge(function: Callable[[Any], Any], item: Any, seconds: float) -> tuple[str, Any]:
    """What the pool hears of an item.

    The pool kills a worker that takes too long. The alarm is for when there is no pool any more: its default action
    needs no interpreter, so it also ends a call that never comes back from C.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
    try:
        return "done", function(item)
    except Exception as error:  # counted by the pool as this item's error
        return "error", f"{type(error).__name__}: {error}"[:1000]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main(descriptor: int, parent: int) -> None:
    """Loads the function under the clock of the start, says so, and then judges items until the pipe closes."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
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

    connection.send(judge(start, order["rehearsal"], order["start_seconds"]))
    while function is not None:
        item = await_item(connection, parent)
        connection.send(judge(function, item, order["timeout_seconds"]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
