"""A rank that is gone is named to all; one that says goodbye is not missed."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from bots_lightning.strategies import RankWatch, rank_watch


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set instead of ending this process."""
    event = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: event.set() if code == 1 else None)
    return event


@pytest.fixture
def ranks(ended: threading.Event) -> Iterator[list[RankWatch]]:
    """Three, connected; they end one another after a tenth of a second."""
    watches = [RankWatch(grace_seconds=0.1) for _ in range(3)]
    port, secret = watches[0].listen()
    for rank in (1, 2):
        watches[rank].connect("127.0.0.1", port, secret, f"rank {rank}", "rank 0")
    _await(lambda: len(watches[0].connections.others) == 2)
    yield watches
    for watch in watches:
        watch.close()


def _await(happened: object) -> None:
    waited = threading.Event()
    for _ in range(100):
        if happened():  # type: ignore[operator]
            return
        waited.wait(0.05)
    raise AssertionError("nothing happened in 5 s")


def error_of_torch() -> BaseException:
    """As good as one of a collective."""
    with pytest.raises(OSError, match="nowhere") as found:
        torch.load("nowhere")
    return found.value


@pytest.fixture
def sigterm() -> Iterator[Mock]:
    """What listens to SIGTERM."""
    handler = Mock()
    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


def fail(watch: RankWatch, exception: BaseException) -> None:
    """Calls the hook, as the trainer does."""
    watch.on_exception(None, None, exception)  # type: ignore[arg-type]


def test_all_hear_of_a_rank_that_is_lost_and_end(
    ranks: list[RankWatch], ended: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks[1].close("")  # as the operating system closes what a dead process leaves
    _await(lambda: ranks[0].lost and ranks[2].lost)
    assert (ranks[0].lost, ranks[2].lost) == ("rank 1", "rank 1")
    assert ended.wait(5)
    assert capsys.readouterr().err.count("rank 1 is gone; the others end within 0.1 s.") == 2


def test_all_notice_the_loss_of_the_first(ranks: list[RankWatch], ended: threading.Event) -> None:
    ranks[0].close("")
    _await(lambda: ranks[1].lost and ranks[2].lost)
    assert (ranks[1].lost, ranks[2].lost) == ("rank 0", "rank 0")
    assert ended.wait(5)


@pytest.mark.parametrize(
    ("exception", "fate"),
    [
        (KeyboardInterrupt(), "was interrupted by Ctrl-C or SIGINT"),
        (SystemExit(143), "has ended with exit code 143"),
        (ValueError("no\ntask. Add\tsome."), "has failed: ValueError: no task. Add some"),
        (ValueError("x" * 10_000), f"has failed: ValueError: {'x' * 276}"),
    ],
)
def test_all_hear_what_has_ended_a_rank_and_end(
    exception: BaseException, fate: str, ranks: list[RankWatch], ended: threading.Event
) -> None:
    fail(ranks[1], exception)
    _await(lambda: ranks[0].lost and ranks[2].lost)
    assert [ranks[rank].account() for rank in (0, 2)] == [f"rank 1 {fate}. To continue: --ckpt_path last"] * 2
    assert ended.wait(5)


def test_ranks_that_fail_for_the_same_reason_each_tell_their_own(
    ranks: list[RankWatch], ended: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    for watch in ranks:
        fail(watch, ValueError("no task"))
    assert not ended.wait(2)
    assert [watch.lost for watch in ranks] == [None, None, None]
    assert capsys.readouterr().err == ""


def test_a_collective_that_fails_since_a_rank_is_gone_is_no_failure_of_its_own(
    ranks: list[RankWatch], ended: threading.Event, sigterm: Mock
) -> None:
    ranks[1].close("")
    fail(ranks[2], error_of_torch())
    os.kill(os.getpid(), signal.SIGTERM)  # of a launcher: too late to be listened to
    assert not sigterm.called
    _await(lambda: ranks[0].lost)
    assert (ranks[0].account(), ranks[2].account()) == (
        "rank 1 is gone. See its log. To continue: --ckpt_path last",
    ) * 2
    assert ended.wait(5)


def test_an_error_of_torch_without_a_loss_is_this_ranks_own(
    ranks: list[RankWatch], ended: threading.Event, sigterm: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_watch, "NEWS_SECONDS", 0.1)
    fail(ranks[1], error_of_torch())
    os.kill(os.getpid(), signal.SIGTERM)
    assert sigterm.called
    _await(lambda: ranks[0].lost)
    assert ranks[0].account().startswith("rank 1 has failed: FileNotFoundError: ")
    assert ended.wait(5)


def test_a_program_that_ends_as_meant_is_no_loss(ranks: list[RankWatch], ended: threading.Event) -> None:
    fail(ranks[1], SystemExit(0))
    assert not ended.wait(2)
    assert ranks[0].lost is None


def test_lightning_kills_no_process_that_still_has_to_tell(ranks: list[RankWatch]) -> None:
    observer = _ChildProcessObserver(main_pid=os.getpid(), child_processes=[object()])  # type: ignore[list-item]
    observer.run = threading.Event().wait  # type: ignore[method-assign]
    observer.start()
    ranks[1].close("")
    _await(lambda: ranks[0].lost)
    assert observer._run()  # there is nothing to observe any more


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_goodbye_is_no_loss(order: tuple[int, ...], ranks: list[RankWatch], ended: threading.Event) -> None:
    for rank in order:
        ranks[rank].close()
    assert not ended.wait(0.5)
    assert [watch.lost for watch in ranks] == [None, None, None]


def test_a_stranger_is_turned_away(ranks: list[RankWatch], ended: threading.Event) -> None:
    assert ranks[0].connections.server is not None
    port = ranks[0].connections.server.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(b"guess rank 7")
        assert stranger.recv(1) == b""
    assert not ended.wait(0.5)
    assert ranks[0].lost is None


def test_a_child_that_outlives_its_rank_does_not_hide_the_loss() -> None:
    """It inherits the connections, and closes its copies."""
    first, second = RankWatch(), RankWatch()
    port, secret = first.listen()
    second.connect("127.0.0.1", port, secret, "rank 1", "rank 0")
    connection = next(iter(second.connections.others))
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, str(connection.fileno()).encode())
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"-1"
    for descriptor in (read, write):
        os.close(descriptor)
    second.close()
    first.close()
