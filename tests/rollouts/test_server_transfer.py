"""Weights from GPU to GPU: the four phases of vLLM's weight transfer, in order, and what may go wrong in each."""

# P prompts, n completions each, R = P·n rows.

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import rollout_helpers
import torch
import vllm_imitation
from rollout_helpers import rows_of
from server_helpers import assert_logprobs_are_the_policys, calls, completed, make_engine, send
from torch import nn

from bots_lightning.policy.loading import LoRA, load_policy
from bots_lightning.rollouts import RolloutServerError, ServerEngine, VLLMDialect, WeightTransfer, server_client
from bots_lightning.rollouts.server_dialect import Serving

PHASES = ["/pause?mode=keep", "/start_weight_update", "/update_weights", "/finish_weight_update", "/resume"]
CONNECT = "/init_weight_transfer_engine"


@pytest.fixture(autouse=True)
def _vllm_and_quick_health_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_client, "HEALTH_SECONDS", 0.5)
    vllm_imitation.Engine.made.clear()
    for name, module in vllm_imitation.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def policy(checkpoint: str) -> nn.Module:
    """Finetuned in full; its head is tied."""
    return load_policy(checkpoint).eval()


def moved(policy: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for weight in policy.parameters():
        weight.data += 0.2 * weight.std() * torch.randn(weight.shape, generator=generator)
    return policy


def sending(folder: Path, *urls: str, backend: Any = "nccl", seconds: float = 10.0, **options: Any) -> ServerEngine:
    transfer = WeightTransfer(backend, "head", timeout_seconds=seconds)
    return make_engine(folder, *urls, dialect=VLLMDialect(transfer), **options)


def phases(url: str) -> list[str]:
    return [call for call in calls(url) if call in (*PHASES, CONNECT)]


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_all_weights_arrive_in_four_phases(backend: str, policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine, seen = sending(tmp_path, url, backend=backend), set()
    for version in range(3):
        rollouts = completed(engine, moved(policy, seed=version), 8, version=version)
        assert_logprobs_are_the_policys(policy, rollouts)
        seen.add(str(rows_of(rollouts)))
    assert len(seen) == 3
    assert phases(url) == [PHASES[0], CONNECT, *PHASES[1:], *PHASES, *PHASES]
    assert not (tmp_path / "adapters").exists()
    assert engine.pool.servers[0].last_error == "none"
    (made,) = vllm_imitation.Engine.made
    assert made.init_info.backend == backend  # type: ignore[attr-defined]
    told = made.init_info.options
    assert told.pop("rank") == 0
    assert told.pop("packed") is True
    if backend == "nccl":
        assert told.pop("master_port") > 0
        assert told == {"master_address": "head", "world_size": 3}  # the trainer and two workers
    else:
        assert told == {}


@pytest.mark.parametrize(
    ("path", "kind"),
    [(path, "error") for path in ("/collective_rpc", CONNECT, *(phase.partition("?")[0] for phase in PHASES))]
    + [("/pause", "die"), ("/update_weights", "die")],
)
def test_a_server_that_fails_in_any_phase_takes_no_part_until_it_has_the_weights(
    path: str, kind: str, policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path
) -> None:
    urls = [servers.start(checkpoint) for _ in range(2)]
    engine = sending(tmp_path, *urls)
    if path != CONNECT:
        completed(engine, moved(policy, seed=0))
    send(urls[0], "/fault", kind=kind, at=path)
    before = len(calls(urls[1]))
    assert_logprobs_are_the_policys(policy, completed(engine, moved(policy, seed=1), version=1))
    assert sum("completions" in call for call in calls(urls[1])[before:]) >= 4  # all prompts
    if kind == "die":
        servers.start(checkpoint, urls[0])
    engine.pool.servers[0].rests_until = 0.0
    for version in (2, 3):
        assert_logprobs_are_the_policys(policy, completed(engine, moved(policy, seed=2), version=version))
    assert any("completions" in call for call in calls(urls[0]))
    assert phases(urls[0])[-1] == "/resume"


def test_a_transfer_that_hangs_costs_its_time_and_no_more(
    policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path
) -> None:
    urls = [servers.start(checkpoint) for _ in range(2)]
    engine = sending(tmp_path, *urls, seconds=0.5)
    completed(engine, policy)
    send(urls[0], "/fault", kind="hang", at="/update_weights")
    assert_logprobs_are_the_policys(policy, completed(engine, moved(policy, seed=1), version=1))
    assert_logprobs_are_the_policys(policy, completed(engine, moved(policy, seed=2), version=2))


def test_a_server_that_has_lost_the_weights_waits_for_the_next_sync(
    policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path
) -> None:
    urls = [servers.start(checkpoint) for _ in range(2)]
    engine = sending(tmp_path, *urls)
    first = rows_of(completed(engine, policy))
    send(urls[0], "/fault", kind="forget")
    assert rows_of(completed(engine, policy)) == first
    assert "'' has answered, policy-0-" in engine.pool.servers[0].last_error
    engine.pool.servers[0].rests_until = 0.0
    completed(engine, moved(policy, seed=1), version=1)
    assert phases(urls[0]).count(CONNECT) == 2
    assert phases(urls[1]).count(CONNECT) == 1


def test_if_no_server_takes_them_the_sync_says_why(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = sending(tmp_path, url)
    completed(engine, policy)
    send(url, "/fault", kind="error", at="/update_weights")
    with pytest.raises(RolloutServerError, match=r"has taken the weights: http.*update_weights: .* 500.*reach head"):
        engine.sync(moved(policy, seed=1), 1)
    assert_logprobs_are_the_policys(policy, completed(engine, policy, version=2))


@pytest.mark.parametrize("lacking", ["vllm", "factory"])
def test_without_vllm_or_with_an_earlier_one_it_is_said(
    lacking: str, policy: nn.Module, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "vllm":
        monkeypatch.setitem(sys.modules, "vllm", None)
        monkeypatch.setitem(sys.modules, vllm_imitation.PACKAGE, None)
    else:
        monkeypatch.delattr(sys.modules[vllm_imitation.PACKAGE], "WeightTransferTrainerFactory")
    with pytest.raises(ImportError, match=r"install vllm 0\.28 or later .* or leave transfer out"):
        sending(tmp_path, url).sync(policy, 0)


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_servers_are_started_for_it(backend: Any) -> None:
    words = VLLMDialect(WeightTransfer(backend)).command(Serving("model", 1, "bfloat16", 10, None))
    assert words[words.index("--weight-transfer-config") + 1] == f'{{"backend": "{backend}"}}'
    assert "bots_vllm_worker.PolicyWeights" in words
    assert ("VLLM_ALLOW_INSECURE_SERIALIZATION=1" in words) == (backend == "ipc")
    assert "--weight-transfer-config" not in VLLMDialect().command(Serving("model", 1, "bfloat16", 10, None))


def test_adapters_go_the_other_way_all_the_same(checkpoint: str, url: str, tmp_path: Path) -> None:
    policy = rollout_helpers.moved(load_policy(checkpoint, LoRA(r=4, alpha=8)).eval(), seed=0)
    assert_logprobs_are_the_policys(policy, completed(sending(tmp_path, url), policy))
    assert phases(url) == []
