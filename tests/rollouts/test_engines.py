"""What every engine promises, whoever does the work."""

# P prompts, n completions each, R = P·n rows, T completion tokens.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rollout_helpers import request_for, rows_of
from scipy.stats import chisquare
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from bots_lightning.policy.loading import LoRA, language_model, load_policy
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.quickstart import WarmStart
from bots_lightning.rollouts import GenerateEngine, GenerationRequest, RolloutEngine, Rollouts, SamplingParams
from bots_lightning.rollouts.compact import CompactEngine
from bots_lightning.rollouts.server import ServerEngine
from bots_lightning.rollouts.server_sglang import SGLangDialect

PROMPTS = [[5, 6, 7], [8], [9, 10], [5, 6, 7]]
SEEDS = [1, 2, 3, 4]
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1,), pad_token_id=0)
GREEDY = replace(SAMPLING, temperature=0)
BUILDERS = [GenerateEngine, CompactEngine, lambda: CompactEngine(max_tokens=25), lambda: CompactEngine(logprobs=True)]
NAMES = ["generate", "compact", "compact in small chunks", "compact with logprobs"]

Build = Callable[[], RolloutEngine]


@pytest.fixture(params=BUILDERS, ids=NAMES)
def engine(request: pytest.FixtureRequest) -> RolloutEngine:
    return request.param()


def test_rows_are_in_the_order_of_prompts_which_are_padded_left(model: PreTrainedModel, engine: RolloutEngine) -> None:
    rollouts = engine.generate(request_for(model, PROMPTS, 2, SAMPLING, SEEDS, policy_version=3))
    assert rollouts.prompt_ids.tolist() == [[5, 6, 7]] * 2 + [[0, 0, 8]] * 2 + [[0, 9, 10]] * 2 + [[5, 6, 7]] * 2
    assert rollouts.prompt_mask.int().tolist() == [[1, 1, 1]] * 2 + [[0, 0, 1]] * 2 + [[0, 1, 1]] * 2 + [[1, 1, 1]] * 2
    assert rollouts.policy_version == 3


def test_greedy_completions_are_those_of_the_model_without_a_cache(
    model: PreTrainedModel, engine: RolloutEngine
) -> None:
    expected = []
    for prompt in PROMPTS:
        tokens = list(prompt)
        while len(tokens) < len(prompt) + 6 and 1 not in tokens[len(prompt) :]:
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        expected.append(tokens[len(prompt) :])
    assert rows_of(engine.generate(request_for(model, PROMPTS, 1, GREEDY, SEEDS))) == expected


def test_all_engines_draw_the_same_completions(model: PreTrainedModel, engine: RolloutEngine) -> None:
    reference = GenerateEngine().generate(request_for(model, PROMPTS, 16, SAMPLING, SEEDS))
    rollouts = engine.generate(request_for(model, PROMPTS, 16, SAMPLING, SEEDS))
    assert rows_of(rollouts) == rows_of(reference)
    assert torch.equal(rollouts.finished, reference.finished)
    assert 0 < int(reference.finished.sum()) < 64
    for name in ("prompt_ids", "prompt_mask", "completion_mask"):
        assert torch.equal(getattr(rollouts, name), getattr(reference, name))
    assert (rollouts.completion_ids[~rollouts.completion_mask] == 0).all()


def test_frequencies_are_the_softmax_in_spite_of_the_config(model: PreTrainedModel, engine: RolloutEngine) -> None:
    model.generation_config = GenerationConfig(do_sample=True, top_k=2, repetition_penalty=1.8, eos_token_id=1)
    sampling = SamplingParams(max_completion_length=1, stop_token_ids=(1,), pad_token_id=0, temperature=0.5)
    rollouts = engine.generate(request_for(model, [[5, 6, 7]], 1000, sampling, [0]))
    with torch.no_grad():
        probabilities = (model(torch.tensor([[5, 6, 7]])).logits[0, -1] / 0.5).softmax(-1).double()
    counts = torch.bincount(rollouts.completion_ids[:, 0], minlength=12)
    assert chisquare(counts.numpy(), (probabilities / probabilities.sum()).numpy() * 1000).pvalue > 1e-3


@torch.no_grad()
def probability_integrals(policy: nn.Module, rollouts: Rollouts, temperature: float) -> Tensor:
    """(R, T) values that are uniform in [0, 1], whatever came before, if the completions of PROMPTS are the policy's.

    Each is the probability of all likelier tokens and a random part of the token's own: many small ones come from too
    low a temperature, many large ones from too high a one.
    """
    generator, integrals = torch.Generator().manual_seed(0), []
    for prompt, completions in zip(PROMPTS, rollouts.completion_ids.chunk(len(PROMPTS)), strict=True):
        ids = torch.cat([torch.tensor([prompt] * len(completions)), completions], dim=1)
        logits = policy(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1]
        probabilities = (logits.double() / temperature).softmax(-1)
        own = probabilities.gather(2, completions.unsqueeze(2))
        likelier = probabilities.where(probabilities > own, 0.0).sum(2)
        integrals.append(likelier + own.squeeze(2) * torch.rand(completions.shape, generator=generator))
    return torch.cat(integrals).clamp(0, 1)


def assert_drawn_at(temperature: float, policy: nn.Module, rollouts: Rollouts) -> None:
    """First and later tokens are those of this temperature, and are told from those of one that is 10 % off."""
    first = torch.arange(rollouts.completion_ids.shape[1]) == 0
    for name, here in (("first", first), ("later", ~first)):
        for factor in (0.9, 1.0, 1.1):
            integrals = probability_integrals(policy, rollouts, factor * temperature)
            counts = torch.histc(integrals[rollouts.completion_mask & here], bins=5, min=0, max=1)
            pvalue = chisquare(counts.numpy()).pvalue
            assert (pvalue > 1e-3) == (factor == 1.0), (name, factor, pvalue)


def test_first_and_later_tokens_are_drawn_from_the_softmax(model: PreTrainedModel, engine: RolloutEngine) -> None:
    sampling = replace(SAMPLING, max_completion_length=3, temperature=0.7)
    assert_drawn_at(0.7, model, engine.generate(request_for(model, PROMPTS, 750, sampling, SEEDS)))


@pytest.mark.parametrize("dialect", [None, SGLangDialect()], ids=["vllm", "sglang"])
def test_first_and_later_tokens_of_servers_are_drawn_from_the_softmax(
    servers: Any, checkpoint: str, tmp_path: Path, dialect: Any
) -> None:
    policy = adapted_policy(checkpoint)
    engine = ServerEngine([servers.start(checkpoint)], str(tmp_path), dialect=dialect)
    engine.sync(policy, 0)
    sampling = replace(SAMPLING, max_completion_length=3, temperature=0.7)
    assert_drawn_at(0.7, policy, engine.generate(request_for(language_model(policy), PROMPTS, 750, sampling, SEEDS)))


def adapted_policy(folder: str) -> nn.Module:
    """The checkpoint with the quickstart's LoRA, as if it had been trained for long."""
    policy = load_policy(folder, LoRA(r=16, alpha=32)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, weight in policy.named_parameters():
        if ".default." in name:
            weight.data.normal_(0, 0.1, generator=generator)
    return policy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("max_tokens", [2**18, 100], ids=["whole", "in small chunks"])
def test_recorded_logprobs_are_those_that_the_trainer_computes_for_the_quickstarts_policy(
    cache: Path, temperature: float, max_tokens: int
) -> None:
    policy = adapted_policy(WarmStart(weak_steps=1, policy_steps=2, strong_steps=3).prepare())
    model = language_model(policy)
    model.get_submodule("model.norm").weight.data *= 15  # logits far apart, as training makes them
    sampling = replace(SAMPLING, max_completion_length=12, temperature=temperature)
    engine = CompactEngine(max_tokens, logprobs=True)
    rollouts = engine.generate(request_for(model, PROMPTS, 16, sampling, SEEDS))
    with torch.no_grad():
        expected, entropy = completion_logprobs(policy, rollouts, temperature)
    mask = rollouts.completion_mask
    assert rollouts.logprobs is not None
    torch.testing.assert_close(rollouts.logprobs[mask], expected[mask], atol=1e-4, rtol=0)
    assert entropy[mask].mean() < 2.5  # of at most log 47 = 3.85


def test_completions_of_a_prompt_depend_on_its_seed_alone(model: PreTrainedModel, engine: RolloutEngine) -> None:
    before = torch.random.get_rng_state()
    whole = rows_of(engine.generate(request_for(model, PROMPTS, 4, SAMPLING, SEEDS)))
    for i, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        assert rows_of(engine.generate(request_for(model, [prompt], 4, SAMPLING, [seed]))) == whole[4 * i : 4 * i + 4]
    other = rows_of(engine.generate(request_for(model, PROMPTS, 4, SAMPLING, [1, 2, 9, 4])))
    assert [row for i, row in enumerate(other) if i // 4 != 2] == [row for i, row in enumerate(whole) if i // 4 != 2]
    assert other[8:12] != whole[8:12]
    assert whole[:4] != whole[12:]  # the same prompt by another seed
    assert torch.equal(before, torch.random.get_rng_state())


COUNTS = [3, 1, 16, 2]


def assert_first_of_each(rollouts: Rollouts, equal: Rollouts) -> None:
    """Rollouts of COUNTS are the first ones of 16 of each prompt."""
    first = torch.cat([torch.arange(n) + 16 * prompt for prompt, n in enumerate(COUNTS)])
    assert rows_of(rollouts) == rows_of(equal.rows(first))
    assert len(rollouts) == sum(COUNTS)
    for name in ("prompt_ids", "prompt_mask", "finished"):
        assert torch.equal(getattr(rollouts, name), getattr(equal, name)[first])
    if rollouts.logprobs is not None and equal.logprobs is not None:
        expected = equal.logprobs[first, : rollouts.logprobs.shape[1]]
        torch.testing.assert_close(rollouts.logprobs, expected, atol=1e-4, rtol=0, equal_nan=True)


def assert_continued(engine: RolloutEngine, model: PreTrainedModel, equal: Rollouts, sampling: SamplingParams) -> None:
    """Those of 16 that follow the first COUNTS of each prompt can be asked for by themselves."""
    prompts, counts, seeds, starts = zip(
        *((prompt, 16 - n, seed, n) for prompt, n, seed in zip(PROMPTS, COUNTS, SEEDS, strict=True) if n < 16),
        strict=True,
    )
    rollouts = engine.generate(GenerationRequest(model, prompts, counts, sampling, seeds, starts=starts))
    rest = torch.cat([torch.arange(n, 16) + 16 * prompt for prompt, n in enumerate(COUNTS)])
    assert rows_of(rollouts) == rows_of(equal.rows(rest))


@pytest.mark.parametrize("sampling", [SAMPLING, GREEDY], ids=["sampled", "greedy"])
def test_fewer_completions_are_the_first_of_more_and_the_others_can_follow(
    model: PreTrainedModel, engine: RolloutEngine, sampling: SamplingParams
) -> None:
    rollouts = engine.generate(GenerationRequest(model, PROMPTS, COUNTS, sampling, SEEDS))
    equal = engine.generate(request_for(model, PROMPTS, 16, sampling, SEEDS))
    assert_first_of_each(rollouts, equal)
    assert_continued(engine, model, equal, sampling)


@pytest.mark.parametrize("sampling", [SAMPLING, GREEDY], ids=["sampled", "greedy"])
@pytest.mark.parametrize("dialect", [None, SGLangDialect()], ids=["vllm", "sglang"])
def test_fewer_completions_of_servers_are_the_first_of_more_and_the_others_can_follow(
    servers: Any, checkpoint: str, tmp_path: Path, dialect: Any, sampling: SamplingParams
) -> None:
    policy = adapted_policy(checkpoint)
    engine, model = ServerEngine([servers.start(checkpoint)], str(tmp_path), dialect=dialect), language_model(policy)
    engine.sync(policy, 0)
    rollouts = engine.generate(GenerationRequest(model, PROMPTS, COUNTS, sampling, SEEDS))
    equal = engine.generate(request_for(model, PROMPTS, 16, sampling, SEEDS))
    assert_first_of_each(rollouts, equal)
    assert_continued(engine, model, equal, sampling)


def test_all_tokens_of_an_engine_are_actions(model: PreTrainedModel, engine: RolloutEngine) -> None:
    rollouts = engine.generate(request_for(model, PROMPTS, 4, SAMPLING, SEEDS))
    assert torch.equal(rollouts.action_mask, rollouts.completion_mask)


def test_the_policy_is_left_as_it_was(model: PreTrainedModel, engine: RolloutEngine) -> None:
    expected = rows_of(engine.generate(request_for(model, PROMPTS, 4, SAMPLING, SEEDS)))
    model.train()
    model.gradient_checkpointing_enable()
    model.model.layers[0].eval()
    shipped = model.generation_config
    before = {name: (m.training, getattr(m, "gradient_checkpointing", None)) for name, m in model.named_modules()}
    assert rows_of(engine.generate(request_for(model, PROMPTS, 4, SAMPLING, SEEDS))) == expected
    after = {name: (m.training, getattr(m, "gradient_checkpointing", None)) for name, m in model.named_modules()}
    assert before == after
    assert model.generation_config is shipped
    loss = model(torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss
    loss.backward()  # what was computed while sampling must not stand in the way of gradients
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_completions_are_cut_at_the_limit_and_may_end_by_any_stop_token(
    model: PreTrainedModel, engine: RolloutEngine
) -> None:
    sampling = SamplingParams(max_completion_length=3, stop_token_ids=(1, 4, 9), pad_token_id=9)
    rollouts = engine.generate(request_for(model, PROMPTS, 32, sampling, SEEDS))
    for row, finished in zip(rows_of(rollouts), rollouts.finished.tolist(), strict=True):
        assert not {1, 4, 9} & set(row[:-1])
        assert finished == (row[-1] in (1, 4, 9))
        assert finished or len(row) == 3
    assert {row[-1] for row in rows_of(rollouts)} >= {1, 4, 9}
    assert not rollouts.finished.all()
