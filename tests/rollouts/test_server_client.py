"""Requests are spread over servers, and those that fail are left alone for a while."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from bots_lightning.rollouts import server_client
from bots_lightning.rollouts.server_client import ServerFaultError, ServerPool


def test_requests_go_to_the_server_that_has_the_fewest() -> None:
    pool, gate = ServerPool(["http://a", "http://b", "http://c"], 1.0, 1.0), threading.Event()
    asked: list[str] = []

    def ask(server: Any) -> None:
        asked.append(server.url)
        gate.wait(5)

    threads = [threading.Thread(target=pool.call, args=[ask]) for _ in range(9)]
    for thread in threads:
        thread.start()
    while len(asked) < 9:
        time.sleep(0.01)
    assert [server.outstanding for server in pool.servers] == [3, 3, 3]
    gate.set()
    for thread in threads:
        thread.join()
    assert sorted(asked) == ["http://a"] * 3 + ["http://b"] * 3 + ["http://c"] * 3
    assert [server.outstanding for server in pool.servers] == [0, 0, 0]


def test_rests_double_up_to_the_longest_and_end_with_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rests = [0.0], []
    monkeypatch.setattr(server_client.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(server_client.random, "uniform", lambda low, high: high)
    monkeypatch.setattr(server_client.Server, "check_health", lambda self: None)
    pool = ServerPool(["http://a"], 1.0, patience_seconds=1e9, rest_seconds=1.0, longest_rest_seconds=5.0)

    def rest(seconds: float) -> bool:
        rests.append(seconds)
        now[0] += seconds
        return False

    monkeypatch.setattr(pool.cancelled, "wait", rest)
    answers = iter([False] * 5 + [True])

    def ask(server: Any) -> str:
        if not next(answers):
            raise ServerFaultError("no")
        return "yes"

    assert pool.call(ask) == "yes"
    assert rests == [0.0, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert pool.servers[0].faults == 0
