"""Completions are the same whatever happens to the servers."""

# P prompts, n completions each.

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rollout_helpers import moved, request_for, rows_of
from server_helpers import PROMPTS, SAMPLING, SEEDS, calls, completed, make_engine, send
from torch import nn

from bots_lightning.policy.loading import LoRA, language_model, load_policy
from bots_lightning.rollouts import server_client
from bots_lightning.rollouts.server import ServerEngine
from bots_lightning.rollouts.server_client import RolloutServerError
from bots_lightning.rollouts.server_sglang import SGLangDialect


@pytest.fixture(autouse=True)
def _quick_health_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_client, "HEALTH_SECONDS", 0.5)


@pytest.fixture(scope="module")
def undisturbed(servers: Any, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """The completions of versions 0 and 1 in a row."""
    policy = moved(load_policy(checkpoint, LoRA(r=4, alpha=8)).eval(), seed=0)
    engine = make_engine(tmp_path_factory.mktemp("undisturbed"), servers.start(checkpoint))
    return rows_of(completed(engine, policy)) + rows_of(completed(engine, moved(policy, seed=1), version=1))


def survive(engine: ServerEngine, policy: nn.Module, harm: Callable[[], None]) -> list[list[int]]:
    """The completions of versions 0 and 1, with harm done between them."""
    first = rows_of(completed(engine, policy))
    harm()
    return first + rows_of(completed(engine, moved(policy, seed=1), version=1))


@pytest.mark.parametrize("kind", ["error", "busy", "slow", "hang", "garbage", "truncated", "wrong", "stale", "forget"])
def test_one_server_recovers_from(
    kind: str, policy: nn.Module, url: str, tmp_path: Path, undisturbed: list[list[int]]
) -> None:
    engine = make_engine(tmp_path, url, timeout_seconds=0.5 if kind == "hang" else 2.0)
    assert survive(engine, policy, lambda: send(url, "/fault", kind=kind, times=2)) == undisturbed
    assert (engine.pool.servers[0].last_error == "none") == (kind in ("slow", "forget"))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("drip", "timed out after 1 s with [0-9]+ bytes"),
        ("endless", r"longer than 1,07\d,\d+ bytes.*raise max_answer_bytes"),
        ("cut_error", "HTTP 500: EngineCore .*received 10 bytes, expected 10000"),
        ("stalled_error", "HTTP 500: EngineCore .*timed out after 1 s"),
        ("nested", r"an answer of another form .*\[\[\["),
        ("beyond_vocabulary", "token id 1000000; expected 0 to .*same base model"),
        ("far_beyond_vocabulary", "token id 1180591620717411303424; expected 0 to"),
        ("negative_token", "token id -1; expected 0 to"),
        ("nan_logprobs", "log-probability is nan; expected a finite number up to 0"),
        ("infinite_logprobs", "log-probability is -inf; expected a finite number up to 0"),
        ("positive_logprobs", r"log-probability is 3\.0; expected a finite number up to 0"),
        ("fewer", "3 completions; expected 4"),
        ("more", "5 completions; expected 4"),
        ("twice", "3 completions; expected 4"),
        ("fewer_logprobs", "tokens with [0-9] log-probabilities; expected one for each"),
        ("no_tokens", "0 tokens with 0 log-probabilities"),
        ("other_end", r"a completion has ended by '\\ud800"),
    ],
)
def test_answers_that_cannot_be_are_told_and_asked_for_again(
    kind: str, said: str, policy: nn.Module, url: str, tmp_path: Path, undisturbed: list[list[int]]
) -> None:
    engine = make_engine(tmp_path, url, timeout_seconds=1.0 if kind in ("drip", "stalled_error") else 20.0)
    assert rows_of(completed(engine, policy)) == undisturbed[:16]
    send(url, "/fault", kind=kind, times=2)
    assert rows_of(completed(engine, policy)) == undisturbed[:16]  # there is nothing to load: the answers are at fault
    assert re.search(said, engine.pool.servers[0].first_error)
    assert len(engine.pool.servers[0].first_error) < 1000


@pytest.mark.parametrize("kind", ["drip", "endless", "stalled_error", "hang"])
def test_without_patience_a_batch_fails_within_twice_the_deadline(
    kind: str, policy: nn.Module, url: str, tmp_path: Path
) -> None:
    engine = make_engine(tmp_path, url, timeout_seconds=4.0, patience_seconds=0.0)
    completed(engine, policy)
    send(url, "/fault", kind=kind, times=100)
    start = time.monotonic()
    with pytest.raises(RolloutServerError):
        completed(engine, policy)
    assert time.monotonic() - start < 8.0


def test_sglang_lies_are_told_too(policy: nn.Module, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(tmp_path, url, dialect=SGLangDialect(), patience_seconds=0.0)
    honest = server_client.Server.post

    def post(self: server_client.Server, path: str, *args: Any) -> Any:
        answer = honest(self, path, *args)
        if path == "/generate":
            answer[0]["output_ids"][0] = 10**6
        return answer

    monkeypatch.setattr(server_client.Server, "post", post)
    with pytest.raises(RolloutServerError, match="token id 1000000; expected 0 to"):
        completed(engine, policy)


def test_an_adapter_that_is_forgotten_meanwhile_is_loaded_again(
    policy: nn.Module, url: str, tmp_path: Path, undisturbed: list[list[int]]
) -> None:
    engine = make_engine(tmp_path, url)
    first = rows_of(completed(engine, policy))
    send(url, "/fault", kind="forget")
    assert first == rows_of(completed(engine, policy))  # the same version: nothing is synced
    assert first == undisturbed[:16]
    assert "404" in engine.pool.servers[0].last_error


def test_a_killed_server_is_replaced_by_the_other(
    servers: Any, checkpoint: str, policy: nn.Module, tmp_path: Path, undisturbed: list[list[int]]
) -> None:
    urls = servers.start(checkpoint), servers.start(checkpoint)
    engine = make_engine(tmp_path, *urls)
    assert survive(engine, policy, lambda: servers.signal(urls[0], signal.SIGKILL)) == undisturbed
    assert "Connection" in engine.pool.servers[0].last_error
    assert sum("/v1/completions" in call for call in calls(urls[1])) >= len(PROMPTS)


def test_a_server_that_is_killed_at_work_and_started_again_goes_on(
    servers: Any, url: str, checkpoint: str, policy: nn.Module, tmp_path: Path, undisturbed: list[list[int]]
) -> None:
    engine = make_engine(tmp_path, url)

    def harm() -> None:
        send(url, "/fault", kind="die")
        threading.Timer(0.5, servers.start, [checkpoint, url]).start()

    assert survive(engine, policy, harm) == undisturbed


def test_a_server_that_hangs_costs_one_timeout(
    servers: Any, checkpoint: str, policy: nn.Module, tmp_path: Path, undisturbed: list[list[int]]
) -> None:
    urls = servers.start(checkpoint), servers.start(checkpoint)
    engine = make_engine(tmp_path, *urls, timeout_seconds=1.0)
    started = time.monotonic()
    assert survive(engine, policy, lambda: servers.signal(urls[1], signal.SIGSTOP)) == undisturbed
    assert time.monotonic() - started > 1.0
    started = time.monotonic()
    assert rows_of(completed(engine, policy, version=1)) == undisturbed[16:]
    assert time.monotonic() - started < 1.0  # no further request has waited for it in vain
    servers.signal(urls[1], signal.SIGKILL)


def test_a_server_of_another_base_model_takes_no_part(
    policy: nn.Module, url: str, tmp_path: Path, undisturbed: list[list[int]], servers: Any, checkpoint: str
) -> None:
    other_folder = tmp_path / "other"
    shutil.copytree(checkpoint, other_folder)
    other = load_policy(checkpoint)
    torch.nn.init.normal_(other.get_input_embeddings().weight, 0, 0.3)
    other.save_pretrained(other_folder)
    engine = make_engine(tmp_path, url, servers.start(str(other_folder)))
    assert survive(engine, policy, lambda: None) == undisturbed
    assert "same base model" in engine.pool.servers[1].first_error
    alone = make_engine(tmp_path, engine.pool.servers[1].url, patience_seconds=0.1)
    with pytest.raises(RolloutServerError, match="nats from the policy's"):
        completed(alone, policy)


def test_when_all_are_dead_the_error_names_them(
    servers: Any, checkpoint: str, policy: nn.Module, tmp_path: Path
) -> None:
    urls = servers.start(checkpoint), servers.start(checkpoint)
    engine = make_engine(tmp_path, *urls, patience_seconds=0.3)
    completed(engine, policy)
    for address in urls:
        servers.signal(address, signal.SIGKILL)
    with pytest.raises(RolloutServerError, match=r"no rollout server has answered for 0\.3 s") as error:
        completed(engine, policy)
    for address in urls:
        assert f"{address}: /" in str(error.value)
    assert str(error.value).count("Connection refused") >= 2


def test_a_request_that_is_refused_is_not_repeated(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url)
    with pytest.raises(RolloutServerError, match=r"refuses the request.*maximum context length is 128"):
        completed(engine, policy, sampling=replace(SAMPLING, max_completion_length=200))
    assert sum("/v1/completions" in call for call in calls(url)) <= 3 + len(PROMPTS)  # three to see whose it is


def test_a_folder_that_the_server_does_not_see_is_said(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url, patience_seconds=0.1)
    engine.sync(policy, 0)
    shutil.rmtree(tmp_path / "adapters")
    with pytest.raises(RolloutServerError, match="adapter_dir on a disk that the server sees"):
        engine.generate(request_for(language_model(policy), PROMPTS, 1, SAMPLING, SEEDS))
