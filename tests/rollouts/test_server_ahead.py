"""Several versions of the policy on servers at a time, while the policy itself has moved on."""

# P prompts, n completions each, R = P·n rows.

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from rollout_helpers import moved, request_for, rows_of
from server_helpers import PROMPTS, SAMPLING, SEEDS, calls, make_engine, send
from torch import nn

from bots_lightning.policy.loading import language_model, load_policy
from bots_lightning.rollouts import RolloutsCancelledError, ServerEngine, server_client
from bots_lightning.rollouts.server_client import RolloutServerError
from bots_lightning.rollouts.server_probe import Probe


@pytest.fixture(autouse=True)
def _quick_health_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_client, "HEALTH_SECONDS", 0.5)


def drawn(engine: ServerEngine, policy: nn.Module, version: int, n: int = 4) -> list[list[int]]:
    """Completions by a version that was synced; the policy's weights are those of another."""
    request = request_for(language_model(policy), PROMPTS, n, SAMPLING, SEEDS, policy_version=version)
    rollouts = engine.generate(request)
    assert rollouts.policy_version == version
    return rows_of(rollouts)


def test_each_adapter_samples_on_when_later_ones_are_there(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url)
    engine.run_ahead(PROMPTS[0], 2)
    first = {}
    for version in range(4):
        engine.sync(moved(policy, seed=version), version)
        first[version] = drawn(engine, policy, version)
        for earlier in range(max(0, version - 2), version):
            assert drawn(engine, policy, earlier) == first[earlier]
    assert len({str(rows) for rows in first.values()}) == 4
    cards = json.loads(urlopen(f"{url}/v1/models", timeout=5).read())["data"]
    assert [card["id"].split("-")[1] for card in cards[1:]] == ["1", "2", "3"]
    assert len(list((tmp_path / "adapters").iterdir())) == 4
    with pytest.raises(RolloutServerError, match="asked for policy 0, but the servers have 3"):
        drawn(engine, policy, 0)
    assert engine.pool.servers[0].last_error == "none"


@pytest.mark.parametrize("kind", ["forget", "error", "stale"])
def test_a_restart_needs_no_policy_of_that_version(kind: str, policy: nn.Module, url: str, tmp_path: Path) -> None:
    """The policy has moved on; what the servers are compared with was kept."""
    engine = make_engine(tmp_path, url)
    engine.run_ahead(PROMPTS[0], 1)
    engine.sync(moved(policy, seed=0), 0)
    if kind != "stale":
        expected = drawn(engine, policy, 0)
    engine.sync(moved(policy, seed=1), 1)
    send(url, "/fault", kind=kind, times=1)
    if kind == "stale":
        drawn(engine, policy, 1)  # the first that is loaded: there are no older weights to be mistaken for it
        send(url, "/fault", kind=kind, times=1)
        expected = drawn(engine, policy, 0)
        assert "nats from the policy's" in engine.pool.servers[0].last_error
    for weight in policy.parameters():
        weight.data.zero_()
    assert drawn(engine, policy, 0) == expected


def test_all_weights_may_be_replaced_while_completions_are_under_way(checkpoint: str, url: str, tmp_path: Path) -> None:
    policy = load_policy(checkpoint).eval()
    engine = make_engine(tmp_path, url, requests_per_server=1)
    engine.run_ahead(PROMPTS[0], 2)

    def update(version: int) -> None:
        generator = torch.Generator().manual_seed(version)
        for weight in policy.parameters():
            weight.data += 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
        engine.sync(policy, version)

    update(0)
    by_version = {0: drawn(engine, policy, 0)}
    send(url, "/fault", kind="slow", times=6)
    with ThreadPoolExecutor(1) as other:
        under_way = other.submit(drawn, engine, policy, 0)
        while sum("/v1/completions" in call for call in calls(url)) < 8:  # of probe and batch before, and one more
            pass
        update(1)
        by_version[1] = drawn(engine, policy, 1)
        mixed = under_way.result()
    assert engine.pool.servers[0].last_error == "none"
    groups = {version: [rows[at : at + 4] for at in range(0, len(rows), 4)] for version, rows in by_version.items()}
    of = [[version for version in (0, 1) if groups[version][at] == mixed[4 * at : 4 * at + 4]] for at in range(4)]
    assert of[0] == [0]
    assert of[-1] == [1]
    assert all(of)
    assert len(list((tmp_path / "adapters").iterdir())) == 1


def test_one_that_ends_does_not_resume_what_was_cancelled(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url)
    engine.run_ahead(PROMPTS[0], 2)
    engine.sync(policy, 0)
    drawn(engine, policy, 0)
    send(url, "/fault", kind="slow", times=8)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(drawn, engine, policy, 0) for _ in range(2)]
        while engine._at_work < 2:
            pass
        engine.cancel()
        for one in both:
            with pytest.raises(RolloutsCancelledError):
                one.result()
    drawn(engine, policy, 0)


def test_a_run_ahead_needs_log_probabilities(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_staleness=3 corrects by the log-probabilities.* Set logprobs=True"):
        make_engine(tmp_path, "http://localhost:1", logprobs=False).run_ahead([5], 3)


def test_a_probe_is_the_policys_distribution_after_beginnings_of_a_prompt(policy: nn.Module) -> None:
    prompt = list(range(5, 16)) * 30
    probe = Probe.of(policy.train(), prompt)
    assert [len(beginning) for beginning in probe.beginnings] == [64, 128, 192, 256]
    assert policy.training
    for beginning, logits in zip(probe.beginnings, probe.logits, strict=True):
        assert beginning == prompt[: len(beginning)]
        with torch.no_grad():
            expected = policy.eval()(input_ids=torch.tensor([beginning])).logits[0, -1]
        torch.testing.assert_close(logits, expected.float(), atol=1e-5, rtol=0)
    assert Probe.of(policy, [7]).beginnings == [[7]]
    assert [len(beginning) for beginning in Probe.of(policy, [7, 8, 9]).beginnings] == [1, 2, 3]
