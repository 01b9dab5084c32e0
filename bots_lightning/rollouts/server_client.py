"""Inference servers over HTTP: load balancing, backoff after faults, and when to give up."""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar

import httpx2 as httpx

from bots_lightning.rollouts.engine import RolloutsCancelledError
from bots_lightning.rollouts.server_requests import Requests, ServerFaultError

Result = TypeVar("Result")
log = logging.getLogger(__name__)

HEALTH_SECONDS = 5.0  # the longest that a health check may take
REFUSALS = (400, 401, 403, 422)  # HTTP status of a request that is at fault itself; asking again does not help
SHORT_ANSWER_BYTES = 2**24  # more than any that is not asked for completions


class RolloutServerError(RuntimeError):
    """No server has answered a request as it should."""


class Server:
    """One server as this process knows it.

    Args:
        url: its root, e.g. http://node-7:8000.
        timeout_seconds: the longest that an answer may take.
        requests: sends them.
        max_answer_bytes: the longest answer that is read; None leaves it to each request.

    Attributes:
        lock: held while weights are loaded or checked.
        holds: names of the weights that it was given since its last fault, and that are the policy's.
        gap: mean |Δ log p| of the last tokens that were compared with the policy, in nats.
        outstanding: requests that it has not answered.
        faults: how many times in a row it has backed off.
        rests_until: end of the present backoff, in monotonic seconds.
        first_error: the first of the present series of faults, or of the last one.
        last_error: the last one.
    """

    def __init__(
        self, url: str, timeout_seconds: float, requests: Requests, max_answer_bytes: int | None = None
    ) -> None:
        self.url, self.timeout_seconds = _checked(url).rstrip("/"), timeout_seconds
        self.requests, self.max_answer_bytes = requests, max_answer_bytes
        self.lock = Lock()
        self.holds = set[str]()
        self.gap = 0.0
        self.outstanding, self.faults, self.rests_until = 0, 0, 0.0
        self.first_error = self.last_error = "none"

    def post(self, path: str, body: dict[str, Any], max_bytes: int = SHORT_ANSWER_BYTES) -> Any:
        """Sends JSON and parses the answer; of an answer that is not JSON, returns the first characters.

        Args:
            path: of the endpoint.
            body: becomes JSON.
            max_bytes: the longest answer that is read; `max_answer_bytes` takes precedence.

        Raises:
            ServerFaultError: there is no answer in time and size, or it is an error.
        """
        limit = self.max_answer_bytes or max_bytes
        content = json.dumps(body).encode()
        return _parsed(self.requests.send("POST", self.url + path, content, self.timeout_seconds, limit))

    def get(self, path: str) -> Any:
        """Asks an endpoint that takes nothing; otherwise as `post`."""
        return _parsed(self.requests.send("GET", self.url + path, None, self.timeout_seconds, SHORT_ANSWER_BYTES))

    def check_health(self) -> None:
        """Raises `ServerFaultError` unless the server answers within `HEALTH_SECONDS`."""
        self.requests.send("GET", self.url + "/health", None, HEALTH_SECONDS, SHORT_ANSWER_BYTES)


def _checked(url: str) -> str:
    with suppress(httpx.InvalidURL):
        parts = httpx.URL(url)
        if parts.scheme in ("http", "https") and parts.host:
            return url
    raise ValueError(f"urls has {url!r}; expected a scheme and a host, e.g. http://localhost:8000.")


def _parsed(answer: bytearray) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        return answer[:200].decode(errors="replace")


class ServerPool:
    """Several interchangeable servers; safe to use from many threads.

    Each request goes to the server with the fewest outstanding ones. After a fault a server rests: exponential backoff
    with jitter, and a health check before it is asked again.

    Args:
        urls: one or more.
        timeout_seconds: the longest that an answer may take.
        patience_seconds: how long a request is tried again after its first fault, on any server.
        rest_seconds: the first rest.
        longest_rest_seconds: the longest.
        max_answer_bytes: the longest answer that is read; None takes what suffices for the request.

    Attributes:
        requests: sends them; once cancelled, no request is begun or tried again, and none waits for the end of a
            server's rest, until it is resumed.
        cancelled: the event that is set meanwhile.
    """

    def __init__(
        self,
        urls: Sequence[str],
        timeout_seconds: float,
        patience_seconds: float,
        rest_seconds: float = 0.5,
        longest_rest_seconds: float = 30.0,
        max_answer_bytes: int | None = None,
    ) -> None:
        self.requests = Requests()
        self.cancelled = self.requests.cancelled
        self.servers = [Server(url, timeout_seconds, self.requests, max_answer_bytes) for url in urls]
        self.patience_seconds = patience_seconds
        self.rest_seconds, self.longest_rest_seconds = rest_seconds, longest_rest_seconds
        self._lock = Lock()

    def call(self, ask: Callable[[Server], Result]) -> Result:
        """The answer of one of the servers.

        Args:
            ask: sends the request to a server; raises `ServerFaultError` if the answer is no good.

        Raises:
            RolloutServerError: a server refuses the request, or none has answered in time.
            RolloutsCancelledError: `cancelled` is set; an answer that comes all the same does not count.
        """
        deadline = math.inf
        while True:
            server, rest = self._borrow()
            try:
                if self.cancelled.wait(max(0.0, min(rest, deadline - time.monotonic()))):
                    raise RolloutsCancelledError
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
                self.requests.raise_if_cancelled()
                return result
            finally:
                with self._lock:
                    server.outstanding -= 1

    def each(self, act: Callable[[Server], None], failing: str) -> list[str]:
        """Does something to every server, after which none is known to hold weights.

        Args:
            act: raises `ServerFaultError` if it fails, which is logged.
            failing: what a server does then, in words.

        Returns:
            what went wrong with those that failed.
        """
        faults = []
        for server in self.servers:
            server.holds = set()
            try:
                act(server)
            except ServerFaultError as fault:
                log.warning("rollout server %s %s: %s", server.url, failing, fault)
                faults.append(f"{server.url}: {fault}")
        return faults

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
            server.holds = set()
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
