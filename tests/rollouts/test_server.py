"""Completions of servers are the policy's own; a real process and HTTP throughout."""

# P prompts, n completions each, R = P·n rows.

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from rollout_helpers import moved, request_for, rows_of
from safetensors.torch import load_file
from scipy.stats import chisquare
from server_helpers import PROMPTS, SAMPLING, SEEDS, assert_logprobs_are_the_policys, calls, completed, make_engine
from torch import nn

from bots_lightning.policy.critic import SharedCritic
from bots_lightning.policy.loading import LoRA, language_model
from bots_lightning.rollouts import CompactEngine
from bots_lightning.rollouts.server_client import RolloutServerError
from bots_lightning.rollouts.server_sglang import SGLangDialect

GREEDY = replace(SAMPLING, temperature=0)


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
        assert_logprobs_are_the_policys(policy, rollouts, temperature)
        assert rollouts.logprobs is not None
        assert rollouts.logprobs[~rollouts.completion_mask].isnan().all()


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


def test_only_the_policys_adapter_is_written(policy: nn.Module, url: str, tmp_path: Path) -> None:
    assert isinstance(policy, PeftModel)
    SharedCritic(LoRA(r=2, alpha=2)).build(policy, str(policy.get_base_model().name_or_path), seed=0)
    expected = get_peft_model_state_dict(policy, adapter_name="default", save_embedding_layers=False)
    engine = make_engine(tmp_path, url)
    completed(engine, policy)
    folder = engine.snapshots[-1].folder
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
    names = [snapshot.name for snapshot in engine.snapshots]
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


@pytest.mark.parametrize(("option", "value"), [("timeout_seconds", 0.0), ("max_answer_bytes", 0)])
def test_options_that_cannot_be_are_refused(option: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}; expected"):
        make_engine(tmp_path, "http://localhost:8000", **{option: value})
