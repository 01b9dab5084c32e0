"""Full finetuning through servers: they have all the weights of the policy, or their answers do not count."""

# P prompts, n completions each, R = P·n rows.

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rollout_helpers import request_for, rows_of
from safetensors.torch import load_file
from server_helpers import (
    PROMPTS,
    SAMPLING,
    SEEDS,
    assert_logprobs_are_the_policys,
    calls,
    completed,
    make_engine,
    send,
)
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bots_lightning.policy.loading import load_policy
from bots_lightning.rollouts import server_client, server_snapshot
from bots_lightning.rollouts.server import ServerEngine
from bots_lightning.rollouts.server_client import RolloutServerError
from bots_lightning.rollouts.server_sglang import SGLangDialect
from bots_lightning.rollouts.server_side.bots_vllm_worker import MARKER, PolicyWeights
from bots_lightning.rollouts.server_snapshot import named_snapshot, policy_weights, write_snapshot

DIALECTS = pytest.mark.parametrize("dialect", [None, SGLangDialect()], ids=["vllm", "sglang"])


@pytest.fixture(autouse=True)
def _quick_health_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_client, "HEALTH_SECONDS", 0.5)


@pytest.fixture
def policy(checkpoint: str) -> nn.Module:
    """Finetuned in full; its head is tied."""
    return load_policy(checkpoint).eval()


def moved(policy: nn.Module, seed: int) -> nn.Module:
    """The policy after an update of all weights, so large that completions differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.2 * weight.std() * torch.randn(weight.shape, generator=generator)
    return policy


def written(policy: nn.Module, parent: Path, version: int = 0, dtype: torch.dtype | None = None) -> Any:
    weights = policy_weights(policy)
    snapshot = named_snapshot(policy, weights, parent, version)
    write_snapshot(policy, weights, snapshot, dtype)
    return snapshot


@DIALECTS
def test_completions_and_logprobs_are_the_policys_after_every_update(
    dialect: Any, policy: nn.Module, url: str, tmp_path: Path
) -> None:
    engine, seen = make_engine(tmp_path, url, dialect=dialect), set()
    for version in range(4):
        rollouts = completed(engine, moved(policy, seed=version), 8, version=version)
        assert_logprobs_are_the_policys(policy, rollouts)
        assert len(list((tmp_path / "adapters").iterdir())) == 1  # of the old one nothing is left
        seen.add(tuple(map(tuple, rows_of(rollouts))))
    assert len(seen) == 4
    assert engine.pool.servers[0].last_error == "none"
    told = 1 + 3 + len(PROMPTS)  # when they are loaded, after three probes, after each answer
    assert calls(url).count("/collective_rpc") == (0 if dialect else 4 * told)
    assert calls(url).count("/reset_prefix_cache") == (0 if dialect else 4)


def undisturbed(servers: Any, checkpoint: str, folder: Path, dialect: Any = None) -> list[list[int]]:
    """The completions of version 1 by a new server."""
    policy = moved(moved(load_policy(checkpoint).eval(), seed=0), seed=1)
    return rows_of(completed(make_engine(folder, servers.start(checkpoint), dialect=dialect), policy, version=1))


@pytest.fixture(scope="module")
def expected(servers: Any, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """The completions of version 1 by an undisturbed vLLM."""
    return undisturbed(servers, checkpoint, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("kind", ["error", "garbage", "hang", "die"])
@pytest.mark.parametrize("path", ["/collective_rpc", "/reset_prefix_cache", "/v1/completions"])
def test_a_server_may_fail_in_any_phase(
    path: str,
    kind: str,
    policy: nn.Module,
    servers: Any,
    checkpoint: str,
    tmp_path: Path,
    expected: list[list[int]],
) -> None:
    urls = [servers.start(checkpoint) for _ in range(2)]
    engine = make_engine(tmp_path, *urls, timeout_seconds=0.5 if kind == "hang" else 5.0)
    completed(engine, moved(policy, seed=0))
    send(urls[0], "/fault", kind=kind, at=path)
    assert rows_of(completed(engine, moved(policy, seed=1), version=1)) == expected
    harmless = (kind, path) == ("garbage", "/reset_prefix_cache")  # nobody reads the answer
    assert (engine.pool.servers[0].last_error == "none") == harmless
    assert engine.pool.servers[1].last_error == "none"


@DIALECTS
@pytest.mark.parametrize("kind", ["error", "garbage", "stale", "forget"])
def test_completions_are_the_same_whatever_happens_to_the_server(
    kind: str, dialect: Any, policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path
) -> None:
    url = servers.start(checkpoint)
    engine = make_engine(tmp_path / "harmed", url, dialect=dialect)
    completed(engine, moved(policy, seed=0))
    send(url, "/fault", kind=kind, times=1)
    rollouts = completed(engine, moved(policy, seed=1), version=1)
    if kind == "forget":  # once more, when there is nothing to load, so that only the answers can tell
        send(url, "/fault", kind=kind)
        rollouts = engine.generate(request_for(policy, PROMPTS, 4, SAMPLING, SEEDS, policy_version=1))
    assert rows_of(rollouts) == undisturbed(servers, checkpoint, tmp_path / "undisturbed", dialect)
    said = {"stale": "nats from the policy's", "forget": "has answered, policy-1-"}.get(kind, "")
    assert said in engine.pool.servers[0].last_error != "none"


def test_of_two_servers_the_stale_one_is_found_and_given_the_weights_again(
    policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path
) -> None:
    urls = [servers.start(checkpoint) for _ in range(2)]
    engine = make_engine(tmp_path, *urls)
    send(urls[0], "/fault", kind="stale", times=1)
    for version in range(3):
        rollouts = completed(engine, moved(policy, seed=version), 8, version=version)
        assert_logprobs_are_the_policys(policy, rollouts)
    assert "nats from the policy's" in engine.pool.servers[0].last_error
    assert engine.pool.servers[1].last_error == "none"


def tear(folder: Path) -> None:
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no marker": (lambda folder: (folder / MARKER).unlink(), "FileNotFoundError"),
    "a torn shard": (tear, r"ValueError: .*model.safetensors has \d+ bytes; expected \d+"),
    "no shard": (lambda folder: (folder / "model.safetensors").unlink(), "FileNotFoundError"),
    "no folder": (shutil.rmtree, "FileNotFoundError"),
    "other weights": (
        lambda folder: (folder / MARKER).write_text('{"name": "policy-7", "files": {}}'),
        "ValueError: .* holds policy-7, policy-0-",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_not_whole_is_not_loaded(damage: str, policy: nn.Module, url: str, tmp_path: Path) -> None:
    harm, said = DAMAGES[damage]
    engine = make_engine(tmp_path, url, patience_seconds=0.1)
    engine.sync(moved(policy, seed=0), 0)
    harm(engine.snapshots[0].folder)
    with pytest.raises(RolloutServerError, match=said) as error:
        engine.generate(request_for(policy, PROMPTS, 4, SAMPLING, SEEDS))
    assert "--worker-extension-cls bots_vllm_worker.PolicyWeights" in str(error.value)
    shutil.rmtree(engine.snapshots[0].folder, ignore_errors=True)
    assert len(completed(engine, policy)) == 4 * len(PROMPTS)  # written again, and whole


def test_a_server_without_the_extension_is_told_of_it(
    policy: nn.Module, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def post(self: Any, path: str, *_: Any) -> Any:
        raise server_client.ServerFaultError("HTTP 404: Not Found", 404)

    monkeypatch.setattr(server_client.Server, "post", post)
    with pytest.raises(RolloutServerError, match=r"404.*VLLM_SERVER_DEV_MODE=1.*PolicyWeights"):
        completed(make_engine(tmp_path, url, patience_seconds=0.1), policy)


class Head(nn.Module):
    """A tied head as vLLM has it on a CPU: its product is by a packed copy, which is made anew when asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.quant_method, self.packed = self, 0
        self.cpu_linear = self.tie_weights = lambda: None

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        assert layer is self
        self.packed += 1


class Worker(PolicyWeights):
    """What a worker of vLLM has."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.fails = False
        self.head = Head()
        self.model_runner = SimpleNamespace(get_model=lambda: nn.ModuleList([self.head, nn.Linear(2, 2)]))

    def reload_weights(self, weights_iterator: Iterator[tuple[str, Tensor]]) -> None:
        for name, weight in weights_iterator:
            self.weights[name] = weight
            if self.fails:
                raise RuntimeError("out of memory")


def test_a_worker_loads_once_and_has_no_name_after_half_of_the_weights(policy: nn.Module, tmp_path: Path) -> None:
    worker, first = Worker(), written(policy, tmp_path)
    assert worker.policy_name() == ""
    assert worker.load_policy(str(first.folder), first.name) == worker.policy_name() == first.name
    assert worker.weights.keys() == policy_weights(policy).keys()
    assert worker.head.packed == 1
    worker.weights.clear()
    assert worker.load_policy(str(first.folder), first.name) == first.name
    assert not worker.weights  # it has them
    assert worker.forget_policy("another") == first.name
    assert worker.forget_policy(first.name) == ""
    worker.fails = True
    assert worker.load_policy(str(first.folder), first.name) == "RuntimeError: out of memory"
    assert worker.policy_name() == ""
    worker.fails = False
    assert worker.load_policy(str(first.folder), first.name) == first.name


@pytest.mark.parametrize("shard_bytes", [None, 20_000])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_folder_is_a_checkpoint_of_transformers(
    shard_bytes: int | None, dtype: torch.dtype | None, policy: nn.Module, tmp_path: Path, monkeypatch: Any
) -> None:
    if shard_bytes:
        split = partial(server_snapshot.split_torch_state_dict_into_shards, max_shard_size=shard_bytes)
        monkeypatch.setattr(server_snapshot, "split_torch_state_dict_into_shards", split)
    snapshot = written(moved(policy, seed=0), tmp_path, dtype=dtype)
    loaded = AutoModelForCausalLM.from_pretrained(snapshot.folder, dtype=torch.float32).state_dict()
    for name, weight in policy.state_dict().items():
        assert torch.equal(loaded[name], weight.to(dtype or weight.dtype).float()), name
    shards = sorted(snapshot.folder.glob("*.safetensors"))
    assert (len(shards) > 1) == (shard_bytes is not None)
    marker = json.loads((snapshot.folder / MARKER).read_text())
    assert marker["files"] == {shard.name: shard.stat().st_size for shard in shards}
    names = [name for shard in shards for name in load_file(shard)]
    assert len(names) == len(set(names)) == len(policy.state_dict()) - 1  # the head is the embedding
    size = sum(weight.numel() for weight in policy_weights(policy).values()) * (2 if dtype else 4)
    assert size <= sum(marker["files"].values()) <= size + 4096 * len(shards)


def test_names_tell_updates_apart_and_leave_nothing_unfinished(policy: nn.Module, tmp_path: Path) -> None:
    names = [written(policy, tmp_path, version).name for version in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    tiny = list(policy.parameters())[-1]
    with torch.no_grad():
        tiny += 1e-6
    assert written(policy, tmp_path).name not in names
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_loses_nothing(policy: nn.Module, url: str, tmp_path: Path, monkeypatch: Any) -> None:
    engine = make_engine(tmp_path, url)
    before = rows_of(completed(engine, policy))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(server_snapshot, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            engine.sync(moved(policy, seed=3), 1)
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == [engine.snapshots[0].name]
    assert rows_of(completed(engine, load_policy(str(policy.config.name_or_path)).eval())) == before


def test_the_dtype_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights_dtype='bf16'; expected one of 'float32', 'bfloat16', 'float16'"):
        ServerEngine(["http://localhost:1"], str(tmp_path), weights_dtype="bf16")  # type: ignore[arg-type]


def test_weights_of_another_dtype_are_found_by_what_they_change(policy: nn.Module, url: str, tmp_path: Path) -> None:
    moved(policy, seed=0)
    rounded = make_engine(tmp_path, url, weights_dtype="bfloat16")
    completed(rounded, policy)
    gap = rounded.pool.servers[0].gap
    assert 1e-4 < gap < rounded.max_logprob_gap
    strict = make_engine(
        tmp_path / "strict", url, weights_dtype="bfloat16", max_logprob_gap=gap / 2, patience_seconds=0.1
    )
    with pytest.raises(RolloutServerError, match="nats from the policy's on average; at most max_logprob_gap="):
        completed(strict, policy, version=1)
