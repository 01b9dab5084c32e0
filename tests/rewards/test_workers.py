"""A pool of workers outlives what its items do to it, and its workers do not outlive it."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bots_lightning.rewards.graded import RewardPoolError
from bots_lightning.rewards.worker import path_of
from bots_lightning.rewards.workers import PATIENCE, Verdict, WorkerPool

ROOT = Path(__file__).parents[2]
# What the workers run: an item is a name of something to do, or what to return.
PLAYGROUND = """
import ctypes, os, sys, time

def obey(item):
    if item == "hang":
        while True:
            pass
    if item == "hang in C":
        return 9 ** 9 ** 9 ** 9
    if item == "sleep":
        time.sleep(0.2)
    if item == "sleep for ever":
        time.sleep(1e6)
    if item == "exit":
        os._exit(3)
    if item == "crash":
        ctypes.string_at(0)
    if item == "raise":
        raise KeyError("what")
    if item == "fill the memory":
        return len(bytearray(2**30))
    if item == "modules":
        return sorted(sys.modules)
    if item == "process":
        return os.getpid()
    return item

def never(item):
    os._exit(7)
"""


@pytest.fixture(autouse=True)
def playground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "playground.py").write_text(PLAYGROUND)
    monkeypatch.syspath_prepend(tmp_path)


Pools = Callable[..., WorkerPool]


@pytest.fixture
def pools() -> Iterator[Pools]:
    made: list[WorkerPool] = []

    def make(timeout_seconds: float = 1.0, num_workers: int = 2, **options: object) -> WorkerPool:
        made.append(WorkerPool("playground:obey", timeout_seconds, num_workers, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def children() -> set[int]:
    """The processes that this one has started and that are still there, zombies included."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(path.parent.name))
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def outcomes(verdicts: list[Verdict]) -> list[str]:
    return [verdict.outcome for verdict in verdicts]


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def test_results_come_in_the_order_of_the_items(pools: Pools) -> None:
    items = ["sleep", *range(500), "sleep", *range(500)]
    assert pools(5.0).map(items) == [Verdict("done", item) for item in items]
    assert pools().map([]) == []


def test_every_bad_item_costs_itself_and_no_other(pools: Pools) -> None:
    items = [1, "hang", 2, "exit", "raise", 3, "hang in C", "crash", 4, ("\ud800", b"\0"), 5]
    expected = ["done", "timeout", "done", "error", "error", "done", "timeout", "error", "done", "done", "done"]
    verdicts = pools().map(items)
    assert outcomes(verdicts) == expected
    assert [v.value for v in verdicts if v.outcome == "done"] == [1, 2, 3, 4, ("\ud800", b"\0"), 5]
    assert verdicts[4].message == "KeyError: 'what'"


def test_the_clock_of_an_item_starts_when_a_worker_gets_it(pools: Pools) -> None:
    # Ten items of 0.2 s on one worker take twice the limit of each.
    assert outcomes(pools(1.0, num_workers=1).map(["sleep"] * 10)) == ["done"] * 10


def test_a_time_out_takes_as_long_as_the_limit(pools: Pools) -> None:
    pool = pools(0.4)
    pool.map([1, 2])
    start = time.monotonic()
    assert outcomes(pool.map(["hang", "hang in C"])) == ["timeout", "timeout"]
    assert 0.4 <= time.monotonic() - start < 0.4 * PATIENCE  # not by the clock on the wall, busy as the machine may be


def test_waiting_is_no_work(pools: Pools) -> None:
    # As on a machine so busy that an item waits for a processor for longer than its limit.
    assert outcomes(pools(0.1).map(["sleep", "sleep", "hang"])) == ["done", "done", "timeout"]


def test_an_item_that_never_works_ends_by_the_clock_on_the_wall(pools: Pools) -> None:
    pool = pools(0.02, 1)
    pool.map([1])
    start = time.monotonic()
    assert outcomes(pool.map(["sleep for ever", 1])) == ["timeout", "done"]
    assert time.monotonic() - start >= 0.02 * PATIENCE


def test_a_time_out_costs_no_start(pools: Pools) -> None:
    pool = pools(0.1, 1)
    (first,) = [verdict.value for verdict in pool.map(["process"])]
    (worker,) = pool._workers
    verdicts = pool.map(["hang", "process", "hang", "hang in C", "process"])
    assert outcomes(verdicts) == ["timeout", "done", "timeout", "timeout", "done"]
    assert pool._workers == [worker]
    assert len({first, verdicts[1].value, verdicts[4].value}) == 3


def test_processes_are_bounded_over_many_time_outs(pools: Pools) -> None:
    before, pool = children(), pools(0.1)
    for _ in range(5):
        assert outcomes(pool.map(["hang"] * 4 + [1])) == ["timeout"] * 4 + ["done"]
        assert len(children() - before) <= 2
    pool.close()
    assert children() <= before


def test_no_more_processes_start_than_there_are_items(pools: Pools) -> None:
    before = children()
    pools(num_workers=8).map([1])
    assert len(children() - before) == 1


def test_a_worker_that_is_killed_from_outside_costs_its_item(pools: Pools) -> None:
    pool = pools(20.0, num_workers=1)
    (process,) = [verdict.value for verdict in pool.map(["process"])]
    threading.Timer(0.3, os.kill, (process, signal.SIGKILL)).start()
    verdicts = pool.map(["hang", 1])
    assert outcomes(verdicts) == ["error", "done"]
    assert "died with exit code -9" in verdicts[0].message


def test_a_worker_that_is_killed_between_two_items_costs_none(pools: Pools) -> None:
    pool = pools(num_workers=1)
    (process,) = [verdict.value for verdict in pool.map(["process"])]
    os.kill(process, signal.SIGKILL)
    assert eventually(lambda: not alive(process), 5)
    assert outcomes(pool.map([1, 2])) == ["done", "done"]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_workers_ignore_what_ends_a_run(pools: Pools, kind: signal.Signals) -> None:
    pool = pools(num_workers=1)
    (process,) = [verdict.value for verdict in pool.map(["process"])]
    os.kill(process, kind)
    assert pool.map(["process"]) == [Verdict("done", process)]


def test_an_interrupted_call_leaves_no_answers_for_the_next(pools: Pools) -> None:
    pool = pools(20.0, num_workers=1)
    pool.map([1])
    main = threading.main_thread().ident
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        pool.map(["hang", 1])
    assert pool.map([2]) == [Verdict("done", 2)]


def test_memory_has_a_limit(pools: Pools) -> None:
    assert outcomes(pools(5.0, 1).map(["fill the memory"])) == ["done"]
    verdicts = pools(5.0, 1, memory_bytes=2**29).map(["fill the memory", 1])
    assert outcomes(verdicts) == ["error", "done"]
    assert "MemoryError" in verdicts[0].message


def test_a_long_item_is_an_error_and_is_not_sent(pools: Pools) -> None:
    verdicts = pools(max_item_bytes=1000).map(["a" * 2000, "a" * 500])
    assert outcomes(verdicts) == ["error", "done"]
    assert "more than 1000" in verdicts[0].message


def test_loading_is_not_under_the_clock_of_an_item(pools: Pools) -> None:
    pool = pools(0.3, 1, rehearsal=["sleep", "sleep"])
    assert outcomes(pool.map([1])) == ["done"]


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        ("playground:never", {"rehearsal": [1]}, "3 processes in a row failed .*died with exit code 7"),
        ("playground:nothing", {}, "has no attribute 'nothing'"),
        ("no_such_module:f", {}, "No module named 'no_such_module'"),
        ("playground:obey", {"rehearsal": ["hang"], "start_seconds": 0.3}, r"more than start_seconds=0\.3"),
    ],
)
def test_workers_that_never_get_ready_are_an_error(function: str, options: dict[str, object], said: str) -> None:
    before = children()
    pool = WorkerPool(function, 1.0, 2, **options)  # type: ignore[arg-type]
    with pytest.raises(RewardPoolError, match=said):
        pool.map([1, 2])
    pool.close()
    assert children() <= before


def test_a_pool_recovers_when_the_machine_does(tmp_path: Path) -> None:
    pool = WorkerPool("late:obey", 1.0, 1)
    with pytest.raises(RewardPoolError, match="No module named 'late'"):
        pool.map([1])
    (tmp_path / "late.py").write_text(PLAYGROUND)
    assert pool.map([1]) == [Verdict("done", 1)]
    pool.close()


def test_copies_have_processes_of_their_own(pools: Pools) -> None:
    pool = pools(num_workers=1)
    twins = [pool, copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))]
    processes = [twin.map(["process"])[0].value for twin in twins]
    assert len(set(processes)) == 3
    twins[1].close()
    # Its files are closed, by which the pool knows, a moment before the system counts it as dead.
    assert eventually(lambda: [alive(process) for process in processes] == [True, False, True], 5)
    assert pool.map(["process"])[0].value == processes[0]
    twins[2].close()


def test_closing_ends_the_processes_and_the_next_call_starts_others(pools: Pools) -> None:
    before, pool = children(), pools()
    pool.map([1, 2])
    pool.close()
    assert children() <= before
    assert pool.map([3]) == [Verdict("done", 3)]


def test_a_forgotten_pool_ends_its_processes() -> None:
    before = children()
    pool = WorkerPool("playground:obey", 1.0, 1)
    pool.map([1])
    del pool
    assert eventually(lambda: children() <= before, 5)


def test_threads_share_pools(pools: Pools) -> None:
    shared, found = [pools(), pools()], {}

    def work(i: int) -> None:
        found[i] = [verdict.value for verdict in shared[i % 2].map([i] * 50)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [i] * 50 for i in range(4)}


def test_workers_do_not_import_torch(pools: Pools) -> None:
    pool = WorkerPool("bots_lightning.rewards.maths_grader:grade", 5.0, 1)
    pool.map([(r"\boxed{\sqrt{4}}", "2", "boxed")])
    (worker,) = pool._workers
    libraries = Path(f"/proc/{worker.process.pid}/maps").read_text()
    pool.close()
    assert "numpy" in libraries  # what it does import is seen there
    assert "torch" not in libraries
    (verdict,) = pools(5.0).map(["modules"])
    assert not {"torch", "numpy", "bots_lightning"} & set(verdict.value)


@pytest.mark.parametrize("item", ["1", "hang in C"])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, item: str) -> None:
    program = f"""
import sys, threading, time
sys.path.insert(0, {str(tmp_path)!r})
from bots_lightning.rewards.workers import WorkerPool
pool = WorkerPool("playground:obey", 1.0, 1)
print(pool.map(["process"])[0].value, flush=True)
pool.map([{item!r}])
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    assert alive(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not alive(worker), 4)


def test_a_function_goes_by_its_path() -> None:
    assert path_of(path_of) == "bots_lightning.rewards.worker:path_of"
    for function in (lambda item: item, WorkerPool.map, len):
        with pytest.raises(ValueError, match="expected a top-level function"):
            path_of(function)


@pytest.mark.parametrize(
    "options", [{"num_workers": 0}, {"timeout_seconds": 0}, {"timeout_seconds": float("inf")}, {"start_seconds": -1}]
)
def test_options_that_make_no_sense(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}="):
        WorkerPool("playground:obey", **{"timeout_seconds": 1.0, **options})  # type: ignore[arg-type]
