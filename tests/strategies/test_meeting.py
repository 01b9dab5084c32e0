"""Ranks find each other, or say in a line that another program has their port; none waits forever."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from bots_lightning.strategies import meeting
from bots_lightning.strategies.meeting import meet

SCRIPT = Path(__file__).parents[1] / "assets" / "meet.py"
HOST, LONG, SHORT = "127.0.0.1", timedelta(seconds=60), timedelta(seconds=0.1)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "ANSWER_SECONDS", 1.0)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of a program that listens and never answers."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def test_ranks_meet_at_a_free_port_and_none_comes_twice(free: int) -> None:
    meet(HOST, free, 0, 2, LONG)
    meet(HOST, free, 1, 2, LONG)
    with pytest.raises(ConnectionError, match=f"port {free} of {HOST}.* in use by another run, which has this rank"):
        meet(HOST, free, 1, 2, LONG)


def test_a_port_in_use_is_named_by_every_rank(taken: int) -> None:
    words = f"port {taken} of {HOST}, where the ranks meet, is in use by another program"
    with pytest.raises(ConnectionError, match=rf"{words}\. Set MASTER_PORT to a free port"):
        meet(HOST, taken, 0, 2, LONG)
    with pytest.raises(ConnectionError, match=rf"{words} than this run's first rank\. Set MASTER_PORT"):
        meet(HOST, taken, 1, 2, LONG)


def test_the_store_of_another_program_is_not_mistaken_for_ours() -> None:
    store = dist.TCPStore(HOST, 0, 2, True, wait_for_workers=False)
    with pytest.raises(ConnectionError, match="another program than this run's first rank"):
        meet(HOST, store.port, 1, 2, LONG)


def test_a_port_that_nobody_opens_is_named(free: int) -> None:
    with pytest.raises(ConnectionError, match=rf"has not opened port {free} of {HOST} in 0\.1 s .*refused"):
        meet(HOST, free, 1, 2, SHORT)


def test_one_rank_and_ranks_of_torchrun_need_no_port(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_store", None)
    before = set(threading.enumerate())  # some ask a silent program forever
    meet(HOST, taken, 0, 1, LONG)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    meet(HOST, taken, 0, 2, LONG)
    assert meeting._store is None
    assert set(threading.enumerate()) <= before


def variables(port: int, **more: str) -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", "MASTER_ADDR": HOST, "MASTER_PORT": str(port)} | more


@pytest.fixture
def by_hand(forks: Any) -> Callable[[int], list[tuple[int, str]]]:
    """`by_hand(port)`: exit codes of two ranks, and what they have said."""

    def by_hand(port: int) -> list[tuple[int, str]]:
        own = [variables(port, NODE_RANK="0", LOCAL_RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
        return [(rank.code, rank.printed + rank.said) for rank in forks(SCRIPT, [([], each) for each in own])]

    return by_hand


def test_ranks_started_by_hand_meet(free: int, by_hand: Any) -> None:
    for rank, (code, said) in enumerate(by_hand(free)):
        assert code == 0, said
        assert f"rank {rank} is there" in said


def test_ranks_started_by_hand_all_end_where_the_port_is_in_use(taken: int, by_hand: Any) -> None:
    for code, said in by_hand(taken):
        assert code == 1
        assert re.findall(r"^error: (port \d+) of", said, re.MULTILINE) == [f"port {taken}"]
        assert "Traceback" not in said


def test_ranks_started_by_lightning_end_with_the_first(taken: int) -> None:
    """They hold its output, so that this would wait for one that is left."""
    environment = os.environ | variables(taken)
    first = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=120)
    said = first.stdout + first.stderr
    assert first.returncode == 1
    assert said.count(f"error: port {taken} of {HOST}") == 1
    assert "Traceback" not in said


def test_ranks_resume_from_one_checkpoint(on_two_ranks: Callable[[str], list[Any]]) -> None:
    first, second = on_two_ranks("different_checkpoints")
    assert first[:2] == ["", ""]
    assert "different checkpoints (rank 0: 0.ckpt, rank 1: 1.ckpt)" in first[2]
    assert "different checkpoints (rank 0: None, rank 1: a.ckpt)" in first[3]
    assert second == first
