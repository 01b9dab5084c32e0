"""Completions of servers are the policy's own, whatever befalls the servers; a real process and HTTP throughout."""

# P prompts, n completions each, R = P·n rows.

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from scipy.stats import chisquare
from torch import nn

from bots_lightning.policy.critic import SharedCritic
from bots_lightning.policy.loading import LoRA, language_model, load_policy
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import CompactEngine, GenerationRequest, Rollouts, SamplingParams, server_client
from bots_lightning.rollouts.server import ServerEngine
from bots_lightning.rollouts.server_client import RolloutServerError, ServerFaultError, ServerPool
from bots_lightning.rollouts.server_dialect import Completion, check_completions, longest_answer
from bots_lightning.rollouts.server_sglang import SGLangDialect

PROMPTS = [[5, 6, 7], [8], [9, 10], [5, 6, 7]]
SEEDS = [1, 2, 3, 4]
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1, 4, 9), pad_token_id=0)
GREEDY = replace(SAMPLING, temperature=0)


def request_for(
    model: Any, prompts: Any, n: int, sampling: SamplingParams, seeds: Any, **more: Any
) -> GenerationRequest:
    """n completions of every prompt."""
    return GenerationRequest(model, prompts, [n] * len(prompts), sampling, seeds, **more)


@pytest.fixture
def url(servers: Any, checkpoint: str) -> str:
    return servers.start(checkpoint)


@pytest.fixture
def policy(checkpoint: str) -> nn.Module:
    """With adapters that matter."""
    return moved(load_policy(checkpoint, LoRA(r=4, alpha=8)).eval(), seed=0)


@pytest.fixture(autouse=True)
def _quick_health_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_client, "HEALTH_SECONDS", 0.5)


def moved(policy: nn.Module, seed: int) -> nn.Module:
    """The policy after what might have been an update."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in policy.named_parameters():
        if ".default." in name:
            weight.data.normal_(0, 0.3, generator=generator)
    return policy


def make_engine(folder: Path, *urls: str, **options: Any) -> ServerEngine:
    engine = ServerEngine(
        list(urls), str(folder / "adapters"), **{"timeout_seconds": 2.0, "patience_seconds": 10.0} | options
    )
    engine.pool.rest_seconds = 0.02
    return engine


def completed(
    engine: ServerEngine, policy: nn.Module, n: int = 4, sampling: SamplingParams = SAMPLING, version: int = 0
) -> Rollouts:
    engine.sync(policy, version)
    return engine.generate(request_for(language_model(policy), PROMPTS, n, sampling, SEEDS, policy_version=version))


def rows_of(rollouts: Rollouts) -> list[list[int]]:
    rows = zip(rollouts.completion_ids, rollouts.completion_mask, strict=True)
    return [ids[mask].tolist() for ids, mask in rows]


def send(url: str, path: str, **body: Any) -> None:
    urlopen(Request(url + path, json.dumps(body).encode()), timeout=5).read()


def calls(url: str) -> list[str]:
    return json.loads(urlopen(f"{url}/calls", timeout=5).read())


# --- what every engine promises ---------------------------------------------------------------------------------------


def test_rows_are_ordered_and_padded_as_those_of_other_engines(policy: nn.Module, url: str, tmp_path: Path) -> None:
    rollouts = completed(make_engine(tmp_path, url), policy, n=2, version=3)
    assert rollouts.prompt_ids.tolist() == [[5, 6, 7]] * 2 + [[0, 0, 8]] * 2 + [[0, 9, 10]] * 2 + [[5, 6, 7]] * 2
    assert rollouts.prompt_mask.int().tolist() == [[1, 1, 1]] * 2 + [[0, 0, 1]] * 2 + [[0, 1, 1]] * 2 + [[1, 1, 1]] * 2
    assert rollouts.policy_version == 3
    assert rollouts.logprobs is not None
    assert completed(make_engine(tmp_path, url, logprobs=False), policy, n=2).logprobs is None
    assert (rollouts.completion_ids[~rollouts.completion_mask] == 0).all()


@pytest.mark.parametrize("dialect", [None, SGLangDialect()])
def test_greedy_completions_and_zero_logprobs_are_those_of_the_compact_engine(
    policy: nn.Module, url: str, tmp_path: Path, dialect: Any
) -> None:
    rollouts = completed(make_engine(tmp_path, url, dialect=dialect, logprobs=True), policy, sampling=GREEDY)
    expected = CompactEngine(logprobs=True).generate(request_for(language_model(policy), PROMPTS, 4, GREEDY, SEEDS))
    for name, value in vars(expected).items():
        same = (
            torch.equal(getattr(rollouts, name).nan_to_num(7.0), value.nan_to_num(7.0))
            if torch.is_tensor(value)
            else True
        )
        assert same, name
    assert rollouts.finished.any()


@pytest.mark.parametrize("dialect", [None, SGLangDialect()])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_policys_after_every_update(
    policy: nn.Module, url: str, tmp_path: Path, temperature: float, dialect: Any
) -> None:
    engine, sampling = (
        make_engine(tmp_path, url, dialect=dialect, logprobs=True),
        replace(SAMPLING, temperature=temperature),
    )
    for version in range(3):
        rollouts = completed(engine, moved(policy, seed=version), 8, sampling, version)
        with torch.no_grad():
            expected, _ = completion_logprobs(policy, rollouts, temperature)
        assert rollouts.logprobs is not None
        mask = rollouts.completion_mask
        torch.testing.assert_close(rollouts.logprobs[mask], expected[mask], atol=1e-4, rtol=0)
        assert rollouts.logprobs[~mask].isnan().all()


def test_frequencies_are_the_softmax_whatever_the_server_would_do(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url)
    engine.sync(policy, 0)
    sampling = replace(SAMPLING, max_completion_length=1, temperature=0.5)
    rollouts = engine.generate(request_for(language_model(policy), [[5, 6, 7]], 2000, sampling, [0]))
    with torch.no_grad():
        probabilities = (policy(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1] / 0.5).softmax(-1).double()
    likely = probabilities > 5 / 2000
    counts = torch.bincount(rollouts.completion_ids[:, 0], minlength=len(probabilities)).double()
    observed, expected = (torch.cat([x[likely], x[~likely].sum().reshape(1)]) for x in (counts, probabilities * 2000))
    assert int(likely.sum()) > 5
    assert chisquare(observed.numpy(), (expected / expected.sum() * 2000).numpy()).pvalue > 1e-3


def test_completions_are_cut_at_the_limit_or_by_any_stop_token(policy: nn.Module, url: str, tmp_path: Path) -> None:
    rollouts = completed(make_engine(tmp_path, url), policy, 32)
    for row, finished in zip(rows_of(rollouts), rollouts.finished.tolist(), strict=True):
        assert not {1, 4, 9} & set(row[:-1])
        assert finished == (row[-1] in (1, 4, 9))
        assert finished or len(row) == 6
    assert 0 < int(rollouts.finished.sum()) < len(rollouts)
    assert rollouts.completion_ids.shape[1] == int(rollouts.lengths.max())


@pytest.mark.parametrize("dialect", [None, SGLangDialect()])
def test_completions_of_a_prompt_depend_on_its_seed_alone(
    policy: nn.Module, url: str, tmp_path: Path, dialect: Any
) -> None:
    engine, model = make_engine(tmp_path, url, dialect=dialect), language_model(policy)
    whole = rows_of(completed(engine, policy))
    for i, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        assert rows_of(engine.generate(request_for(model, [prompt], 4, SAMPLING, [seed]))) == whole[4 * i : 4 * i + 4]
    assert whole[:4] != whole[12:]  # the same prompt by another seed
    neighbours = rows_of(engine.generate(request_for(model, [[5, 6, 7]] * 2, 16, SAMPLING, [1, 2])))
    assert neighbours[1:16] != neighbours[16:31]  # servers count on from a seed; 1 + 1 is not 2 here
    assert len({tuple(row) for row in neighbours}) > 16


def test_the_policy_is_left_as_it_was(policy: nn.Module, url: str, tmp_path: Path) -> None:
    policy.train()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    requires = [weight.requires_grad for weight in policy.parameters()]
    completed(make_engine(tmp_path, url), policy)
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert requires == [weight.requires_grad for weight in policy.parameters()]
    assert all(module.training for module in policy.modules())
    assert policy.peft_config["default"].inference_mode is False


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_only_the_policys_adapter_is_written(policy: nn.Module, url: str, tmp_path: Path) -> None:
    assert isinstance(policy, PeftModel)
    SharedCritic(LoRA(r=2, alpha=2)).build(policy, str(policy.get_base_model().name_or_path), seed=0)
    expected = get_peft_model_state_dict(policy, adapter_name="default", save_embedding_layers=False)
    engine = make_engine(tmp_path, url)
    completed(engine, policy)
    folder = engine.adapters[-1].folder
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    written = load_file(folder / "adapter_model.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert not any("critic" in name for name in written)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
    assert (folder / "adapter_model.safetensors").stat().st_mode == (folder / "adapter_config.json").stat().st_mode


def test_the_last_two_adapters_are_kept_on_disk_and_one_on_the_server(
    policy: nn.Module, url: str, tmp_path: Path
) -> None:
    engine = make_engine(tmp_path, url)
    for version in range(4):
        completed(engine, moved(policy, seed=version), version=version)
    names = [adapter.name for adapter in engine.adapters]
    assert [name.split("-")[1] for name in names] == ["2", "3"]
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == set(names)
    cards = json.loads(urlopen(f"{url}/v1/models", timeout=5).read())["data"]
    assert [card["id"] for card in cards] == ["base", names[-1]]
    assert [call for call in calls(url) if call == "/reset_prefix_cache"] == ["/reset_prefix_cache"] * 4


def test_an_adapter_is_loaded_once_for_all_rollouts_of_a_version(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url)
    first, second = completed(engine, policy), completed(engine, policy)
    assert rows_of(first) == rows_of(second)
    assert sum("load_lora_adapter" in call for call in calls(url)) == 1


def test_other_weights_of_the_same_version_are_another_adapter(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url)
    first = rows_of(completed(engine, policy))
    assert rows_of(completed(engine, moved(policy, seed=1))) != first
    other_run = make_engine(tmp_path / "other", url)
    assert rows_of(completed(other_run, moved(policy, seed=0))) == first


def test_a_policy_that_was_not_synced_is_refused(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine, model = make_engine(tmp_path, url), language_model(policy)
    with pytest.raises(RolloutServerError, match="policy 0, but the servers have None"):
        engine.generate(request_for(model, PROMPTS, 1, SAMPLING, SEEDS))
    engine.sync(policy, 4)
    with pytest.raises(RolloutServerError, match="policy 5, but the servers have 4"):
        engine.generate(request_for(model, PROMPTS, 1, SAMPLING, SEEDS, policy_version=5))


def test_full_finetuning_is_refused(checkpoint: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ServerEngine hands adapters to its servers.*finetuned in full"):
        make_engine(tmp_path, url).sync(load_policy(checkpoint), 0)


# --- faults -----------------------------------------------------------------------------------------------------------


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
    assert survive(engine, policy, lambda: send(url, "/fault", kind=kind, times=2)) == undisturbed
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


def test_a_stop_token_whose_log_probability_is_not_said_is_taken() -> None:
    check_completions([Completion([5, 4], [-1.0, math.nan])], 1, SAMPLING, 10)
    with pytest.raises(ServerFaultError, match="log-probability is nan"):
        check_completions([Completion([5, 4], [math.nan, -1.0])], 1, SAMPLING, 10)
    with pytest.raises(ServerFaultError, match="log-probability is nan"):
        check_completions([Completion([5, 5], [-1.0, math.nan])], 1, SAMPLING, 10)
    check_completions([Completion([5, 4, 5], [-1.0, -1.0, math.nan])], 1, SAMPLING, 10)  # beyond the end
    check_completions([Completion([5, 5], [math.nan, 7.0])], 1, GREEDY, 10)  # of greedy ones they mean nothing
    assert longest_answer([1, 2, 3], 4, SAMPLING) == 2**20 + 4 * (6 * 1024 + 3 * 16)


@pytest.mark.parametrize(("option", "value"), [("timeout_seconds", 0.0), ("max_answer_bytes", 0)])
def test_options_that_cannot_be_are_refused(option: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}; expected"):
        make_engine(tmp_path, "http://localhost:8000", **{option: value})


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
    assert sum("/v1/completions" in call for call in calls(url)) <= len(PROMPTS)


def test_a_folder_that_the_server_does_not_see_is_said(policy: nn.Module, url: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path, url, patience_seconds=0.1)
    engine.sync(policy, 0)
    shutil.rmtree(tmp_path / "adapters")
    with pytest.raises(RolloutServerError, match="adapter_dir on a disk that the server sees"):
        engine.generate(request_for(language_model(policy), PROMPTS, 1, SAMPLING, SEEDS))


# --- the pool ---------------------------------------------------------------------------------------------------------


def test_requests_go_to_the_server_that_has_the_fewest() -> None:
    pool, gate = ServerPool(["http://a", "http://b", "http://c"], 1.0, 1.0), threading.Event()
    asked: list[str] = []

    def ask(server: Any) -> None:
        asked.append(server.url)
        gate.wait(5)

    threads = [threading.Thread(target=pool.call, args=[ask]) for _ in range(9)]
    for thread in threads:
        thread.start()
    while len(asked) < 9:
        time.sleep(0.01)
    assert [server.outstanding for server in pool.servers] == [3, 3, 3]
    gate.set()
    for thread in threads:
        thread.join()
    assert sorted(asked) == ["http://a"] * 3 + ["http://b"] * 3 + ["http://c"] * 3
    assert [server.outstanding for server in pool.servers] == [0, 0, 0]


def test_rests_double_up_to_the_longest_and_end_with_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rests = [0.0], []
    monkeypatch.setattr(server_client.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(server_client.random, "uniform", lambda low, high: high)
    monkeypatch.setattr(server_client.Server, "check_health", lambda self: None)
    pool = ServerPool(["http://a"], 1.0, patience_seconds=1e9, rest_seconds=1.0, longest_rest_seconds=5.0)

    def rest(seconds: float) -> bool:
        rests.append(seconds)
        now[0] += seconds
        return False

    monkeypatch.setattr(pool.cancelled, "wait", rest)
    answers = iter([False] * 5 + [True])

    def ask(server: Any) -> str:
        if not next(answers):
            raise ServerFaultError("no")
        return "yes"

    assert pool.call(ask) == "yes"
    assert rests == [0.0, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert pool.servers[0].faults == 0
