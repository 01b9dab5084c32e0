"""Requests end in time and in little memory, whatever their server does."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from bots_lightning.rollouts.engine import RolloutsCancelledError
from bots_lightning.rollouts.server_client import Server, ServerPool
from bots_lightning.rollouts.server_requests import Requests, ServerFaultError

SECONDS = 3.0  # a request's deadline
TIMED_OUT = f"timed out after {SECONDS:g} s"
MEGABYTE = 2**20
CHUNK = b"1," * 2**15
Write = Callable[[bytes], object]


class Speaker(ThreadingTCPServer):
    """A server that answers each request by the function it was given."""

    daemon_threads = True

    def __init__(self, speak: Callable[[Write], None]) -> None:
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), Answering)
        self.speak = speak


class Answering(StreamRequestHandler):
    server: Speaker

    def handle(self) -> None:
        length = 0
        while (line := self.rfile.readline().strip().lower()) != b"":
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.rfile.read(length)
        with contextlib.suppress(OSError):  # the client has given up
            self.server.speak(self.wfile.write)


@contextmanager
def speaking(*parts: bytes, pause: float = 0.0, endless: bool = False, stall: bool = False) -> Iterator[str]:
    """The URL of a server that says some parts, and then closes the connection.

    Args:
        parts: of its answer.
        pause: seconds between the bytes of the last part.
        endless: it says the last part again and again.
        stall: it keeps the connection open.
    """

    def speak(write: Write) -> None:
        write(b"".join(parts[:-1] if pause else parts))
        for byte in parts[-1] if pause else []:
            write(bytes([byte]))
            if server.over.wait(pause):
                return
        while endless and not server.over.is_set():
            write(parts[-1])
        if stall:
            server.over.wait(60)

    with Speaker(speak) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.over.set()
            server.shutdown()


def head(status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *([] if length is None else [f"Content-Length: {length}"])]
    return "".join(line + "\r\n" for line in [*lines, ""]).encode()


def post(url: str, max_bytes: int = MEGABYTE, seconds: float = SECONDS) -> object:
    return Server(url, seconds, Requests()).post("/v1/completions", {"n": 1}, max_bytes)


def resident() -> int:
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def measured() -> Iterator[list[int]]:
    """Bytes that this process holds, at many moments, from before on."""
    seen, over = [resident()], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            seen.append(resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


# --- deadline ---------------------------------------------------------------------------------------------------------


def test_an_answer_is_parsed_and_other_text_is_told() -> None:
    with speaking(head(length=8), b'{"a": 1}') as url:
        assert post(url) == {"a": 1}
    with speaking(head(length=7), b"Success") as url:
        assert post(url) == "Success"


@pytest.mark.parametrize("part", ["head", "body", "error"])
def test_one_byte_at_a_time_does_not_put_the_deadline_off(part: str) -> None:
    slow = {
        "head": [head(length=1000)],
        "body": [head(length=1000), b"[" * 1000],
        "error": [head("500 Internal Server Error", 1000), b"!" * 1000],
    }[part]
    start = time.monotonic()
    with speaking(*slow, pause=0.4) as url, pytest.raises(ServerFaultError, match=TIMED_OUT) as fault:
        post(url)
    assert SECONDS * 0.9 < time.monotonic() - start < 2 * SECONDS
    assert fault.value.status == (500 if part == "error" else None)


@pytest.mark.parametrize("parts", [[], [head(length=10)], [head(length=10), b"[1"]], ids=["nothing", "head", "torn"])
def test_a_server_that_stalls_costs_one_deadline(parts: list[bytes]) -> None:
    start = time.monotonic()
    with speaking(*parts, stall=True) as url, pytest.raises(ServerFaultError, match=TIMED_OUT):
        post(url)
    assert SECONDS * 0.9 < time.monotonic() - start < 2 * SECONDS


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "disconnected"),
        ([head(length=10), b"[1"], r"received 2 bytes, expected 10"),
        ([head()[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\n[1"], "incomplete chunked read"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], "ProtocolError"),
    ],
    ids=["nothing", "torn", "torn chunk", "other protocol"],
)
def test_a_torn_answer_is_a_fault_that_says_so(parts: list[bytes], said: str) -> None:
    with speaking(*parts) as url, pytest.raises(ServerFaultError, match=said) as fault:
        post(url)
    assert fault.value.status is None


@pytest.mark.parametrize("stall", [False, True])
@pytest.mark.parametrize("status", ["500 Internal Server Error", "400 Bad Request"])
def test_an_error_is_told_by_its_status_even_if_the_rest_is_cut_or_stalls(status: str, stall: bool) -> None:
    with speaking(head(status, 100), b"EngineCore", stall=stall) as url, pytest.raises(ServerFaultError) as fault:
        post(url)
    assert fault.value.status == int(status[:3])
    assert f"HTTP {status[:3]}: EngineCore (" in str(fault.value)


def test_a_500_that_stalls_is_tried_again() -> None:
    with (
        speaking(head("500 Internal Server Error", 100), b"EngineCore", stall=True) as bad,
        speaking(head(length=4), b"[42]") as good,
    ):
        pool = ServerPool([bad, good], timeout_seconds=SECONDS, patience_seconds=60.0)
        pool.servers[1].outstanding = 1  # so that the other one is asked first
        assert pool.call(lambda server: server.post("/v1/completions", {})) == [42]
    assert "HTTP 500: EngineCore (timed out" in pool.servers[0].last_error
    assert [server.outstanding for server in pool.servers] == [0, 1]


def test_a_redirection_is_not_followed_but_told() -> None:
    redirection = head("307 Temporary Redirect", 0)[:-2] + b"Location: http://elsewhere:8000/\r\n\r\n"
    with speaking(redirection) as url, pytest.raises(ServerFaultError, match="name that address in urls") as fault:
        post(url)
    assert "'http://elsewhere:8000/'" in str(fault.value)


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [MEGABYTE, 100 * MEGABYTE])
@pytest.mark.parametrize("length", [None, 2**50])
def test_an_endless_answer_takes_the_memory_that_was_allowed(max_bytes: int, length: int | None) -> None:
    start = time.monotonic()
    with (
        speaking(head(length=length), CHUNK, endless=True) as url,
        measured() as seen,
        pytest.raises(ServerFaultError, match=rf"longer than {max_bytes:,} bytes.*raise max_answer_bytes"),
    ):
        post(url, max_bytes, seconds=60.0)
    assert max(seen) - seen[0] < max_bytes + 50 * MEGABYTE
    assert time.monotonic() - start < 60.0


@pytest.mark.parametrize(
    "parts",
    [[head("500 Internal Server Error"), CHUNK], [b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 997 + b"\r\n"]],
    ids=["error", "headers"],
)
def test_an_endless_error_and_endless_headers_take_next_to_nothing(parts: list[bytes]) -> None:
    with speaking(*parts, endless=True) as url, measured() as seen, pytest.raises(ServerFaultError) as fault:
        post(url, 1000 * MEGABYTE, seconds=60.0)
    assert max(seen) - seen[0] < 50 * MEGABYTE
    assert len(str(fault.value)) < 1000
    assert "timed out" not in str(fault.value)


def test_compression_does_not_get_around_the_limit() -> None:
    bomb = head(length=len(CHUNK))[:-2] + b"Content-Encoding: gzip\r\n\r\n"
    with speaking(bomb, CHUNK) as url:
        assert str(post(url)).startswith("1,1,1")  # as it came


def test_the_option_counts_for_all_requests() -> None:
    with speaking(head(length=10), b"[111, 222]") as url:
        assert Server(url, SECONDS, Requests(), 10).post("/", {}, max_bytes=1) == [111, 222]
        with pytest.raises(ServerFaultError, match="longer than 9 bytes"):
            Server(url, SECONDS, Requests(), 9).post("/", {}, max_bytes=100)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_told_as_text(opening: bytes) -> None:
    deep = opening * 100_000
    with speaking(head(length=len(deep)), deep) as url:
        assert post(url) == deep[:200].decode()


# --- others -----------------------------------------------------------------------------------------------------------


def test_requests_that_are_cancelled_end_at_once_and_none_begins() -> None:
    requests, faults = Requests(), []

    def send() -> None:
        try:
            Server(url, 600.0, requests).post("/v1/completions", {})
        except RolloutsCancelledError as error:
            faults.append(error)

    with speaking(head(length=10), stall=True) as url:
        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(requests._under_way) < 8:
            time.sleep(0.01)
        requests.cancel()
        for thread in threads:
            thread.join(20)
        send()
        assert len(faults) == 9
        requests.resume()
    with speaking(head(length=4), b"[42]") as url:
        assert Server(url, 20.0, requests).post("/", {}) == [42]


def test_the_system_s_own_words_are_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ServerFaultError, match="ConnectionRefusedError: Connection refused"):
        post(f"http://127.0.0.1:{port}")


def test_a_forked_process_sends_requests_of_its_own() -> None:
    with speaking(head(length=4), b"[42]") as url:
        assert post(url) == [42]
        with warnings.catch_warnings(action="ignore"):  # Python warns of forks beside threads
            child = os.fork()
        if child == 0:
            try:
                os._exit(0 if post(url) == [42] else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0


def test_the_proxy_that_the_environment_names_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with speaking(head(length=4), b"[42]") as url:
        assert post(url) == [42]


@pytest.mark.parametrize("url", ["localhost:8000", "127.0.0.1:8000", "http://", "ftp://node-7", "http://node:port", ""])
def test_addresses_that_cannot_be_are_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValueError, match=rf"urls has '{url}'; expected a scheme and a host"):
        ServerPool([url], 1.0, 1.0)
