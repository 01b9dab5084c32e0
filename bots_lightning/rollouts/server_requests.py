"""HTTP requests of many threads, each with one deadline and a size limit; they can be cancelled at any time."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import CancelledError, Future
from errno import errorcode
from functools import cache
from ssl import SSLError
from threading import Event, Lock, Thread

import httpx2 as httpx

from bots_lightning.rollouts.engine import RolloutsCancelledError

ERROR_BYTES = 2000  # read of an error's explanation, at the most


class ServerFaultError(Exception):
    """One request to one server has failed; another attempt may succeed.

    Attributes:
        status: of HTTP, if there was an answer that has one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Requests:
    """Sends requests; safe to use from many threads.

    Attributes:
        cancelled: set by `cancel` until `resume`.
    """

    def __init__(self) -> None:
        self.cancelled = Event()
        self._lock = Lock()
        self._under_way: set[Future[bytearray]] = set()
        self._client = httpx.AsyncClient(
            timeout=None,  # those of the library are for each read
            trust_env=False,  # servers are near: not through the proxy that the environment may name
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            # Each has its own connection: servers close idle ones, and may do so just as the next request is sent.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def send(self, method: str, url: str, content: bytes | None, seconds: float, max_bytes: int) -> bytearray:
        """The content of the answer.

        Args:
            method: GET or POST.
            url: the whole address.
            content: JSON.
            seconds: from now until the whole answer has arrived.
            max_bytes: the longest answer that is read.

        Raises:
            ServerFaultError: there is no answer in that time and size, or it is an error.
            RolloutsCancelledError: `cancel` was called, now or before.
        """
        with self._lock:
            self.raise_if_cancelled()
            exchange = self._exchange(method, url, content, seconds, max_bytes)
            under_way = asyncio.run_coroutine_threadsafe(exchange, _background_loop())
            self._under_way.add(under_way)
        try:
            return under_way.result()
        except CancelledError:
            raise RolloutsCancelledError from None
        finally:
            under_way.cancel()  # if this thread was interrupted
            with self._lock:
                self._under_way.discard(under_way)

    def cancel(self) -> None:
        """Ends what is under way, at once; whatever is sent before `resume` is cancelled too."""
        with self._lock:
            self.cancelled.set()
            under_way = list(self._under_way)
        for future in under_way:
            future.cancel()

    def resume(self) -> None:
        """Allows requests again."""
        self.cancelled.clear()

    def raise_if_cancelled(self) -> None:
        """Raises `RolloutsCancelledError` if `cancelled` is set."""
        if self.cancelled.is_set():
            raise RolloutsCancelledError

    async def _exchange(
        self, method: str, url: str, content: bytes | None, seconds: float, max_bytes: int
    ) -> bytearray:
        status, location, body, failure = 0, None, bytearray(), None
        try:
            async with asyncio.timeout(seconds), self._client.stream(method, url, content=content) as answer:
                status, location = answer.status_code, answer.headers.get("location")
                limit = max_bytes if answer.is_success else ERROR_BYTES
                async for chunk in answer.aiter_raw():
                    body += chunk
                    if len(body) > limit:
                        break
        except TimeoutError:
            failure = f"timed out after {seconds:g} s with {len(body):,} bytes of the answer"
        except (httpx.HTTPError, OSError) as error:
            failure = _root_cause(error)
        path = httpx.URL(url).path
        if status and not httpx.codes.is_success(status):  # reported by its status, even if the rest is cut or stalls
            raise _error_answer(path, status, location, body, failure)
        if failure:
            raise ServerFaultError(f"{path}: {failure}")
        if len(body) > max_bytes:
            raise _too_long(path, max_bytes)
        return body


def _error_answer(path: str, status: int, location: str | None, body: bytearray, failure: str | None) -> Exception:
    said = body.decode(errors="replace")[:500]
    hint = f"; it redirects to {location!r}, so name that address in urls" if location else ""
    return ServerFaultError(f"{path}: HTTP {status}: {said}{f' ({failure})' if failure else ''}{hint}", status)


def _too_long(path: str, max_bytes: int) -> Exception:
    return ServerFaultError(
        f"{path}: the answer is longer than {max_bytes:,} bytes, which are enough for what was asked. Is there a "
        "rollout server at this address? If so, raise max_answer_bytes."
    )


@cache
def _background_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all requests of this process, on a daemon thread."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="rollout requests", daemon=True).start()
    return loop


os.register_at_fork(after_in_child=_background_loop.cache_clear)  # threads are not inherited


def _root_cause(error: BaseException) -> str:
    """The error of the operating system, which the library hides behind general exceptions."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif (cause := error.__cause__ or error.__context__) is not None:
            error = cause
        else:
            break
    number = error.errno if isinstance(error, OSError) and not isinstance(error, SSLError) else None
    if number is None or number not in errorcode:
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__}: {os.strerror(number)}"  # of all these asyncio says "Connect call failed"
