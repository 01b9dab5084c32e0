"""Processes that grade items outside of this one, each item under a hard time limit."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

from bots_lightning.rewards.graded import RewardPoolError
from bots_lightning.rewards.worker import Worker, path_of, usable_cores

# After so many processes in a row that end before they can grade, the machine is at fault.
FAILED_STARTS = 3
# Each process holds the grader's libraries in memory; a machine's every core would be too many.
MOST_WORKERS_BY_DEFAULT = 16
# On a busy machine an item waits for a processor far longer than it uses one.
PATIENCE = 30


@dataclass(frozen=True)
class Verdict:
    """The result of one item.

    Attributes:
        outcome: "error" if the function raised, or its process died.
        value: what the function returned, if it did.
        message: of the error.
    """

    outcome: Literal["done", "timeout", "error"]
    value: Any = None
    message: str = ""


class WorkerPool:
    """Processes that run a function on items, each process on one item at a time.

    They start at the first call. One that takes too long is killed, one that dies costs its item, and either is
    replaced by a fork of what it had loaded. They end with this object or this process, however it ends. A copy of the
    pool has processes of its own. Calls on several threads wait for each other.

    Args:
        function: of one item, top-level, or its path `package.module:name`. Items and results are pickled.
        timeout_seconds: processor time for one item, from when a process gets it; by the clock on the wall, which also
            counts what the process waits for, 30 times as long.
        num_workers: processes; by default as many as cores that this process may use, 16 at most.
        start_seconds: for a process to import the function's module and to grade the rehearsal.
        rehearsal: items that each process grades as it starts, so that nothing is loaded under the clock of an item.
        memory_bytes: the most address space of a process (RLIMIT_AS); none for no limit. Of Linux only.
        max_item_bytes: an item that is longer, pickled, is an error and is not sent.

    Raises:
        ValueError: an option is out of range, or another process could not import the function.
    """

    def __init__(
        self,
        function: str | Callable[[Any], Any],
        timeout_seconds: float,
        num_workers: int | None = None,
        *,
        start_seconds: float = 120.0,
        rehearsal: Sequence[Any] = (),
        memory_bytes: int | None = None,
        max_item_bytes: int = 2**20,
    ) -> None:
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers={num_workers}; expected at least 1, or none for one per core.")
        for name, seconds in {"timeout_seconds": timeout_seconds, "start_seconds": start_seconds}.items():
            if not 0 < seconds < float("inf"):
                raise ValueError(f"{name}={seconds}; expected a positive, finite number of seconds.")
        self.num_workers = num_workers or min(usable_cores(), MOST_WORKERS_BY_DEFAULT)
        self.timeout_seconds = float(timeout_seconds)
        self.max_item_bytes = max_item_bytes
        self._patience = PATIENCE * self.timeout_seconds
        self._order = {
            "function": function if isinstance(function, str) else path_of(function),
            "rehearsal": list(rehearsal),
            "start_seconds": float(start_seconds),
            "timeout_seconds": self.timeout_seconds,
            "wall_seconds": self._patience,
            "memory_bytes": memory_bytes,
        }
        self._own_nothing()

    def __getstate__(self) -> dict[str, Any]:
        private = {"_workers", "_owner", "_lock", "_finalizer", "_failed_starts"}
        return {name: value for name, value in vars(self).items() if name not in private}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._own_nothing()

    def map(self, items: Sequence[Any]) -> list[Verdict]:
        """Runs the function on every item.

        Args:
            items: what the function takes, each of which can be pickled.

        Returns:
            The result of each item, in order.

        Raises:
            RewardPoolError: processes end one after another before they are ready.
        """
        with self._lock:
            if self._owner != os.getpid():  # after a fork the processes are the parent's
                self._own_nothing(keep_lock=True)
            return self._grade([ForkingPickler.dumps(item) for item in items])

    def close(self) -> None:
        """Ends the processes; the next call starts new ones."""
        with self._lock:
            end(self._workers, self._owner)

    def _own_nothing(self, keep_lock: bool = False) -> None:
        if not keep_lock:
            self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._owner = os.getpid()
        self._failed_starts = 0
        self._finalizer = weakref.finalize(self, end, self._workers, self._owner)

    def _grade(self, messages: Sequence[Any]) -> list[Verdict]:
        verdicts: list[Verdict | None] = [self._too_long(message) for message in messages]
        waiting = deque([i for i, verdict in enumerate(verdicts) if verdict is None])
        try:
            while waiting or any(worker.item is not None for worker in self._workers):
                self._hand_out(waiting, messages)
                for i, verdict in self._collect():
                    verdicts[i] = verdict
        finally:  # an exception, Ctrl-C included, must not leave answers behind for the next call
            for worker in [worker for worker in self._workers if worker.item is not None]:
                self._remove(worker)
        return [verdict for verdict in verdicts if verdict is not None]

    def _too_long(self, message: Any) -> Verdict | None:
        if len(message) <= self.max_item_bytes:
            return None
        return Verdict("error", message=f"the item has {len(message)} bytes, more than {self.max_item_bytes}")

    def _hand_out(self, waiting: deque[int], messages: Sequence[Any]) -> None:
        """Gives every idle process an item, and starts processes for those that are left."""
        for worker in [worker for worker in self._workers if worker.idle]:
            if not waiting:
                return
            if worker.process.poll() is None and worker.send(messages[waiting[0]]):
                worker.item, worker.deadline = waiting.popleft(), time.monotonic() + self._patience
            else:  # it died between two items, which is no item's fault
                self._remove(worker)
        starting = sum(not worker.started for worker in self._workers)
        for _ in range(min(self.num_workers - len(self._workers), len(waiting) - starting)):
            self._workers.append(Worker(self._order | {"sys_path": sys.path}))

    def _collect(self) -> list[tuple[int, Verdict]]:
        """Waits until a process has answered, has died or is overdue; the results of their items, by number."""
        active = {worker.connection: worker for worker in self._workers if not worker.idle}
        if not active:
            return []
        patience = min(worker.deadline for worker in active.values()) - time.monotonic()
        heard: list[Connection] = wait(list(active), max(patience, 0.0))  # type: ignore[assignment]
        found = [self._hear(active[connection]) for connection in heard]
        now = time.monotonic()
        late = [w for connection, w in active.items() if connection not in heard and w.deadline <= now]
        found += [self._give_up(worker, Verdict("timeout")) for worker in late]
        return [each for each in found if each is not None]

    def _hear(self, worker: Worker) -> tuple[int, Verdict] | None:
        said = worker.receive()
        if said is None:
            return self._give_up(worker, Verdict("error", message=f"its process died with {worker.exit_code()}"))
        kind, value = said
        if not worker.started:
            if kind == "error":
                return self._give_up(worker, Verdict("error", message=value))
            worker.started, self._failed_starts = True, 0
            return None
        i, worker.item = worker.item, None
        assert i is not None
        return i, Verdict("error", message=value) if kind == "error" else Verdict(kind, value)

    def _give_up(self, worker: Worker, verdict: Verdict) -> tuple[int, Verdict] | None:
        """Removes a process; its item has this verdict. Without an item it has failed to start."""
        self._remove(worker)
        if worker.started:
            assert worker.item is not None
            return worker.item, verdict
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS:
            self._failed_starts = 0
            why = verdict.message or f"it needed more than start_seconds={self._order['start_seconds']:g}"
            raise RewardPoolError(
                f"{FAILED_STARTS} processes in a row failed before they could run {self._order['function']}, the last "
                f"with: {why}. Expected them to import it and to wait for items. See what they wrote to stderr, check "
                f"free memory and the memory limit ({self._order['memory_bytes']} bytes), or lower "
                f"num_workers={self.num_workers}."
            )
        return None

    def _remove(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.kill()


def end(workers: list[Worker], owner: int) -> None:
    """Kills the workers and forgets them, unless they are those of the process that this one was forked from."""
    if owner == os.getpid():
        for worker in workers:
            worker.kill()
    workers.clear()
