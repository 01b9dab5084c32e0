"""Inference servers over HTTP: who is free, who rests after a fault, and when to give up."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from threading import Event, Lock
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from bots_lightning.rollouts.engine import RolloutsCancelledError

Result = TypeVar("Result")
log = logging.getLogger(__name__)

HEALTH_SECONDS = 5.0  # what a server that is well needs to say so, at the most
REFUSALS = (400, 401, 403, 422)  # said of the request; asking again does not help
_opener = build_opener(ProxyHandler({}))  # servers are near: not through the proxy that the environment may name


class RolloutServerError(RuntimeError):
    """No server has done what was asked of it."""


class ServerFaultError(Exception):
    """One server has failed once, and may do better the next time.

    Attributes:
        status: of HTTP, if there was an answer that has one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """One server as this process knows it.

    Args:
        url: its root, e.g. http://node-7:8000.
        timeout_seconds: the longest that an answer may take.

    Attributes:
        lock: held while an adapter is loaded or checked.
        holds: name of the adapter that it was given, since its last fault.
        compared: tokens by that adapter that have been compared with the policy.
        rejected: how often they were not the policy's.
        gap: mean |Δ log p| of the last that were compared, in nats.
        outstanding: requests that it has not answered.
        faults: times in a row that it had to rest.
        rests_until: monotonic seconds.
        first_error: what it said or did when its present trouble, or the last one, began.
        last_error: and what it did last.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.url, self.timeout_seconds = url.rstrip("/"), timeout_seconds
        self.lock = Lock()
        self.holds: str | None = None
        self.compared, self.rejected, self.gap = 0, 0, 0.0
        self.outstanding, self.faults, self.rests_until = 0, 0, 0.0
        self.first_error = self.last_error = "none"

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What it answers, from JSON; None if it is something else, as some answers are."""
        return _parsed(self._send(Request(self.url + path, json.dumps(body).encode()), self.timeout_seconds))

    def check_health(self) -> None:
        """Raises `ServerFaultError` unless it answers at once."""
        self._send(Request(self.url + "/health"), HEALTH_SECONDS)

    @staticmethod
    def _send(request: Request, seconds: float) -> bytes:
        request.add_header("Content-Type", "application/json")
        try:
            with _opener.open(request, timeout=seconds) as answer:
                return answer.read()
        except HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise ServerFaultError(f"{request.selector}: HTTP {error.code}: {said}", error.code) from error
        except (OSError, HTTPException) as error:
            raise ServerFaultError(f"{request.selector}: {type(error).__name__}: {error}") from error


def _parsed(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        return None


class ServerPool:
    """Several servers that can do the same; safe to use from many threads.

    Each request goes to the server that has the fewest. After a fault a server rests, twice as long each time, with
    jitter, and must pass a health check before it is asked again.

    Args:
        urls: one or more.
        timeout_seconds: the longest that an answer may take.
        patience_seconds: how long after its first fault a request is tried again, on whichever server.
        rest_seconds: the first rest.
        longest_rest_seconds: the longest.

    Attributes:
        cancelled: while it is set, no request is begun or tried again, and nobody waits for a server's rest to end.
    """

    def __init__(
        self,
        urls: Sequence[str],
        timeout_seconds: float,
        patience_seconds: float,
        rest_seconds: float = 0.5,
        longest_rest_seconds: float = 30.0,
    ) -> None:
        self.servers = [Server(url, timeout_seconds) for url in urls]
        self.patience_seconds = patience_seconds
        self.rest_seconds, self.longest_rest_seconds = rest_seconds, longest_rest_seconds
        self.cancelled = Event()
        self._lock = Lock()

    def call(self, ask: Callable[[Server], Result]) -> Result:
        """What one of the servers answers.

        Args:
            ask: puts the request to a server; raises `ServerFaultError` if the answer is none.

        Raises:
            RolloutServerError: a server refuses the request, or none has answered in time.
            RolloutsCancelledError: `cancelled` is set; an answer that comes all the same does not count.
        """
        deadline = math.inf
        while True:
            server, rest = self._borrow()
            try:
                self.cancelled.wait(max(0.0, min(rest, deadline - time.monotonic())))
                self.raise_if_cancelled()
                if server.faults:
                    server.check_health()
                result = ask(server)
            except ServerFaultError as fault:
                if fault.status in REFUSALS:
                    raise RolloutServerError(f"{server.url} refuses the request: {fault}") from fault
                self._rest(server, fault)
                deadline = min(deadline, time.monotonic() + self.patience_seconds)
                if time.monotonic() >= deadline:
                    raise RolloutServerError(self._account()) from fault
            else:
                server.faults = 0
                self.raise_if_cancelled()
                return result
            finally:
                with self._lock:
                    server.outstanding -= 1

    def raise_if_cancelled(self) -> None:
        """Raises `RolloutsCancelledError` if `cancelled` is set."""
        if self.cancelled.is_set():
            raise RolloutsCancelledError

    def _borrow(self) -> tuple[Server, float]:
        """The server to ask, and the seconds that it still rests."""
        with self._lock:
            now = time.monotonic()
            order = {s: (max(0.0, s.rests_until - now), s.outstanding, random.random()) for s in self.servers}
            server = min(self.servers, key=order.__getitem__)
            server.outstanding += 1
            return server, order[server][0]

    def _rest(self, server: Server, fault: ServerFaultError) -> None:
        with self._lock:
            server.holds = None
            server.last_error = str(fault)
            if server.faults == 0:
                server.first_error = str(fault)
            now = time.monotonic()
            if now < server.rests_until:
                return  # one of several requests that have failed together
            rest = min(self.longest_rest_seconds, self.rest_seconds * 2**server.faults) * random.uniform(0.5, 1.0)
            server.faults, server.rests_until = server.faults + 1, now + rest
        log.warning("rollout server %s rests for %.1f s: %s", server.url, rest, fault)

    def _account(self) -> str:
        errors = ((s.url, dict.fromkeys((s.first_error, s.last_error))) for s in self.servers)
        said = "; ".join(f"{url}: {' -- then '.join(of_server)}" for url, of_server in errors)
        return (
            f"no rollout server has answered for {self.patience_seconds:g} s. Their errors: {said}. "
            "Start them again and resume with --ckpt_path last."
        )
