"""Servers that share the training's GPUs: they sleep while the policy learns, and are woken in the right order."""

# P prompts, n completions each, R = P·n rows.

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from rollout_helpers import moved, request_for, rows_of
from server_helpers import PROMPTS, SAMPLING, SEEDS, assert_logprobs_are_the_policys, calls, completed, make_engine
from torch import nn

from bots_lightning.policy.loading import load_policy
from bots_lightning.rollouts import server_client
from bots_lightning.rollouts.server_client import RolloutServerError
from bots_lightning.rollouts.server_sglang import SGLangDialect

WAKING = {
    "vllm": ["/wake_up?tags=weights", "/collective_rpc", "/reset_prefix_cache", "/wake_up?tags=kv_cache"],
    "sglang": ["/resume_memory_occupation", "/update_weights_from_disk", "/resume_memory_occupation"],
}


@pytest.fixture(autouse=True)
def _quick_health_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_client, "HEALTH_SECONDS", 0.5)


def changed(policy: nn.Module) -> nn.Module:
    for weight in policy.parameters():
        weight.data *= 1.1
    return policy


@pytest.mark.parametrize("dialect", [None, SGLangDialect()], ids=["vllm", "sglang"])
def test_all_weights_are_given_between_waking_for_them_and_waking_for_the_cache(
    dialect: Any, checkpoint: str, url: str, tmp_path: Path
) -> None:
    engine = make_engine(tmp_path, url, dialect=dialect, sleep_level=2)
    policy = load_policy(checkpoint).eval()
    for version in range(3):
        before = len(calls(url))
        assert_logprobs_are_the_policys(policy, completed(engine, changed(policy), version=version))
        made = [call for call in calls(url)[before:] if call.startswith("/")]
        expected = WAKING["sglang" if dialect else "vllm"]
        assert made[: len(expected)] == expected
        engine.release()
        assert calls(url)[-1] == ("/release_memory_occupation" if dialect else "/sleep?level=2")
    assert engine.pool.servers[0].last_error == "none"


def test_an_adapter_needs_the_weights_below_it(policy: nn.Module, url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sleep_level=2 drops the weights below an adapter\. Set sleep_level=1"):
        completed(make_engine(tmp_path, url, sleep_level=2), policy)
    engine = make_engine(tmp_path, url, sleep_level=1)
    for version in range(2):
        assert_logprobs_are_the_policys(policy, completed(engine, moved(policy, seed=version), version=version))
        engine.release()


def test_who_sleeps_does_not_answer_until_it_is_synced(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url, sleep_level=1)
    first = rows_of(completed(engine, policy))
    engine.release()
    other = make_engine(tmp_path / "other", url, patience_seconds=0.1)
    with pytest.raises(RolloutServerError, match="The engine sleeps"):
        completed(other, policy)
    assert rows_of(completed(engine, policy)) == first  # the same version: woken all the same


def test_a_dead_server_need_not_sleep(policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path) -> None:
    urls = [servers.start(checkpoint) for _ in range(2)]
    engine = make_engine(tmp_path, *urls, sleep_level=1)
    first = rows_of(completed(engine, policy))
    servers.signal(urls[0], signal.SIGKILL)
    engine.release()
    assert calls(urls[1])[-1] == "/sleep?level=1"
    assert rows_of(completed(engine, policy)) == first


def test_awake_servers_are_left_alone(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url)
    completed(engine, policy)
    engine.release()
    assert not any("sleep" in call or "wake" in call for call in calls(url))
    model = request_for(policy, PROMPTS, 1, SAMPLING, SEEDS)
    assert len(engine.generate(model)) == len(PROMPTS)


@pytest.mark.parametrize("level", [0, 3])
def test_there_are_two_levels(level: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"sleep_level={level}; expected"):
        make_engine(tmp_path, "http://localhost:1", sleep_level=level)


def test_who_sleeps_cannot_sample_meanwhile(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, "http://localhost:1", sleep_level=1)
    with pytest.raises(ValueError, match=r"sleep_level=1: .* Set max_staleness=0, not 1, or sleep_level=null"):
        engine.run_ahead([5], 1)


def test_sglang_drops_the_weights(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url, dialect=SGLangDialect(), sleep_level=1)
    completed(engine, policy)
    with pytest.raises(ValueError, match="sleep_level=1; SGLang drops the weights"):
        engine.release()
