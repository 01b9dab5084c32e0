"""The server engine ends soon when it is cancelled, whatever its servers do, and samples the next time as ever."""

# P prompts, n completions each.

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_helpers import SECONDS, Gate, assert_cancelled, assert_equal, begin, request_for
from torch import nn

from bots_lightning.policy.loading import language_model
from bots_lightning.rollouts import (
    CompactEngine,
    Rollouts,
    SamplingParams,
    ServerDialect,
    ServerEngine,
    VLLMDialect,
)
from bots_lightning.rollouts.engine import RolloutEngine, RolloutsCancelledError
from bots_lightning.rollouts.server_client import Server, ServerFaultError
from bots_lightning.rollouts.server_dialect import Completion

PROMPTS = [[5, 6, 7], [8], [9, 10], [5, 6, 7]]
SEEDS = [1, 2, 3, 4]
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1, 4), pad_token_id=4)
HOURS = 7200.0


class GatedDialect(ServerDialect):
    """A vLLM that is asked through gates."""

    def __init__(self) -> None:
        self.plain = VLLMDialect()
        self.gates = {"load": Gate(), "complete": Gate()}
        self.calls: list[str] = []

    def _go_through(self, name: str) -> None:
        self.calls.append(name)
        self.gates[name].pass_through()

    def load(self, server: Server, adapter: Any) -> None:
        self._go_through("load")
        self.plain.load(server, adapter)

    def unload(self, server: Server, adapter: Any) -> None:
        self.plain.unload(server, adapter)

    def complete(self, server: Server, *args: Any) -> list[Completion]:
        self._go_through("complete")
        return self.plain.complete(server, *args)


class Generation:
    """Rollouts of four prompts by a server engine, whose requests can be held up."""

    def __init__(self, policy: nn.Module, url: str, folder: Path, **options: Any) -> None:
        self.dialect, self.reported = GatedDialect(), []
        self.engine = ServerEngine([url], str(folder), self.dialect, **options)
        self.policy = policy

    def __call__(self) -> Rollouts:
        self.dialect.calls.clear()
        self.reported.clear()
        self.engine.sync(self.policy, 0)
        model = language_model(self.policy)
        return self.engine.generate(
            request_for(
                model, PROMPTS, 2, SAMPLING, SEEDS, on_completed=lambda position, _: self.reported.append(position)
            )
        )


@pytest.mark.parametrize(("where", "calls"), [("load", ["load"]), ("complete", ["complete"])])
def test_prompts_that_are_queued_for_servers_are_dropped_and_the_answer_under_way_does_not_count(
    policy: nn.Module, url: str, tmp_path: Path, where: str, calls: list[str]
) -> None:
    generate = Generation(policy, url, tmp_path, requests_per_server=1)
    if where == "complete":
        generate()  # so that the adapter is loaded
    generate.dialect.gates[where].close()
    generated = begin(generate)
    generate.dialect.gates[where].cancel_there(generate.engine)
    assert_cancelled(generated)
    assert generate.dialect.calls == calls
    assert generate.reported == []
    assert generate.engine.pool.servers[0].outstanding == 0
    assert_equal(generate(), Generation(policy, url, tmp_path)())
    assert generate.reported == [0, 1, 2, 3]
    assert ("load" in generate.dialect.calls) == (where == "load")  # unless the adapter has been loaded


def test_requests_that_wait_for_an_adapter_to_be_loaded_do_not_load_it_themselves(
    policy: nn.Module, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four are at it: one loads, in vain, and three wait for it to come to an end."""
    generate, asking = Generation(policy, url, tmp_path), threading.Barrier(4)
    gate, call = generate.dialect.gates["load"], generate.engine.pool.call

    def call_together(ask: Callable[[Server], Any]) -> Any:
        def ask_together(server: Server) -> Any:
            asking.wait(SECONDS)
            return ask(server)

        return call(ask_together)

    def fail(*_: Any) -> None:
        raise ServerFaultError("no adapter")

    monkeypatch.setattr(generate.engine.pool, "call", call_together)
    monkeypatch.setattr(generate.dialect.plain, "load", fail)
    gate.close()
    generated = begin(generate)
    gate.cancel_there(generate.engine)
    assert_cancelled(generated)
    assert generate.dialect.calls == ["load"]


def test_a_request_of_a_server_that_hangs_ends_at_once_and_is_not_tried_again(
    policy: nn.Module, servers: Any, url: str, tmp_path: Path
) -> None:
    generate = Generation(policy, url, tmp_path, requests_per_server=1, timeout_seconds=HOURS, patience_seconds=HOURS)
    expected = generate()
    servers.signal(url, signal.SIGSTOP)
    gate = generate.dialect.gates["complete"]
    gate.close()
    generated = begin(generate)
    gate.cancel_there(generate.engine)
    assert_cancelled(generated)
    servers.signal(url, signal.SIGCONT)
    assert generate.dialect.calls == ["complete"]
    assert generate.engine.pool.servers[0].last_error == "none"  # it is not at fault
    assert_equal(generate(), expected)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Listens, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10 * SECONDS)
        yield listening


def url_of(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_the_connection_of_a_request_under_way_is_closed(
    policy: nn.Module, silent: socket.socket, tmp_path: Path
) -> None:
    """Servers see it, and stop sampling."""
    generate = Generation(policy, url_of(silent), tmp_path, timeout_seconds=HOURS, patience_seconds=HOURS)
    generated = begin(generate)
    connection, _ = silent.accept()
    with connection:
        connection.settimeout(SECONDS)
        assert connection.recv(4) == b"POST"
        generate.engine.cancel()
        assert_cancelled(generated)
        while connection.recv(2**16):
            pass
    assert generate.dialect.calls == ["load"]
    assert generate.engine.pool.servers[0].outstanding == 0


def test_a_generate_that_is_cancelled_before_it_begins_asks_nothing(
    policy: nn.Module, url: str, tmp_path: Path
) -> None:
    """As by a thread that gives up what another one has not yet begun."""
    generate = Generation(policy, url, tmp_path)
    generate.engine.sync(policy, 0)
    generate.engine.cancel()
    for _ in range(2):
        with pytest.raises(RolloutsCancelledError):
            generate.engine.generate(request_for(language_model(policy), PROMPTS, 2, SAMPLING, SEEDS))
        assert generate.dialect.calls == []
        generate.engine.cancel()  # again, since a cancellation counts once
    assert_equal(generate(), Generation(policy, url, tmp_path)())


@pytest.mark.parametrize("kind", ["compact", "generate", "server"])
def test_a_cancellation_between_sync_and_generate_counts_once(
    kind: str, policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All engines alike: one that may be about to begin on another thread does not begin."""
    monkeypatch.setattr("bots_lightning.rollouts.compact.can_read", lambda _: kind == "compact")
    engine: RolloutEngine = (
        ServerEngine([servers.start(checkpoint)], str(tmp_path)) if kind == "server" else CompactEngine()
    )
    passes: list[Any] = []

    def generate() -> Rollouts:
        return engine.generate(request_for(language_model(policy), PROMPTS, 2, SAMPLING, SEEDS))

    engine.sync(policy, 0)
    expected = generate()
    hook = language_model(policy).register_forward_pre_hook(lambda *_: passes.append(1))
    for begin_anew in (lambda: None, lambda: engine.sync(policy, 0)):
        begin_anew()
        engine.cancel()
        with pytest.raises(RolloutsCancelledError, match="cancelled before all completions had ended"):
            generate()
        assert not passes
        assert_equal(generate(), expected)
        assert passes or kind == "server"  # which is compared with the policy in its first answers alone
        passes.clear()
    engine.cancel()
    engine.sync(policy, 0)
    assert_equal(generate(), expected)
    hook.remove()


INTERRUPTED = """
import sys
from bots_lightning.policy.loading import LoRA, language_model, load_policy
from bots_lightning.rollouts import GenerationRequest, SamplingParams, ServerEngine

checkpoint, url, folder = sys.argv[1:]
policy = load_policy(checkpoint, LoRA(r=4, alpha=8)).eval()
engine = ServerEngine([url], folder, timeout_seconds=7200.0, patience_seconds=7200.0)
engine.sync(policy, 0)
engine.generate(
    GenerationRequest(language_model(policy), [[5, 6, 7], [8]], [2, 2], SamplingParams(6, (1,), 0), [1, 2])
)
"""


def test_ctrl_c_does_not_wait_for_servers(checkpoint: str, silent: socket.socket, tmp_path: Path) -> None:
    program = [sys.executable, "-c", INTERRUPTED, checkpoint, url_of(silent), str(tmp_path)]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    try:
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=3 * SECONDS)
    finally:
        process.kill()
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode not in (0, -signal.SIGKILL)


def test_nobody_waits_for_servers_that_rest(
    policy: nn.Module, servers: Any, checkpoint: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = Generation(policy, url, tmp_path, patience_seconds=HOURS)
    expected = generate()
    pool, resting = generate.engine.pool, threading.Semaphore(0)
    pool.rest_seconds = pool.longest_rest_seconds = HOURS
    wait = pool.cancelled.wait

    def rest(seconds: float) -> bool:
        if seconds > HOURS / 3:
            resting.release()
        return wait(seconds)

    monkeypatch.setattr(pool.cancelled, "wait", rest)
    servers.signal(url, signal.SIGKILL)
    generated = begin(generate)
    for _ in PROMPTS:
        assert resting.acquire(timeout=SECONDS)
    generate.engine.cancel()
    assert_cancelled(generated)
    assert generate.reported == []
    servers.start(checkpoint, url)
    pool.servers[0].rests_until = 0.0
    assert_equal(generate(), expected)


def test_a_server_engine_that_is_cancelled_at_rest_samples_as_ever(policy: nn.Module, url: str, tmp_path: Path) -> None:
    generate = Generation(policy, url, tmp_path)
    expected = generate()
    generate.engine.cancel()
    assert_equal(generate(), expected)
