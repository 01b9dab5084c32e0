"""Prompts are read once, ended rows are dropped, budgets hold; and the tokens are those of `generate`."""

# P prompts, n completions each, R = P·n rows, T completion tokens.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from decoding_helpers import VOCABULARY, build, recorded
from peft import LoraConfig, get_peft_model
from rollout_helpers import request_for, rows_of
from torch import Tensor
from transformers import (
    MistralConfig,
    PreTrainedModel,
)

from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import GenerateEngine, SamplingParams, decoding
from bots_lightning.rollouts import compact as compact_module
from bots_lightning.rollouts import generate as generate_module
from bots_lightning.rollouts.compact import CompactEngine
from bots_lightning.rollouts.noise import uniform_noise

MISTRAL = MistralConfig(
    vocab_size=VOCABULARY,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=None,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=128,
    initializer_range=0.3,
    sliding_window=5,
)
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1,), pad_token_id=0)
PROMPTS = [[5, 6, 7], [8], [9, 10]]
SEEDS = [1, 2, 3]


def test_each_prompt_is_read_once_and_ended_rows_are_dropped(model: PreTrainedModel) -> None:
    CompactEngine().generate(request_for(model, PROMPTS, 16, SAMPLING, SEEDS))  # the trial of a new model comes first
    with recorded(model) as passes:
        lengths = CompactEngine().generate(request_for(model, PROMPTS, 16, SAMPLING, SEEDS)).lengths
    assert passes[0] == (3, 3)
    for step, (rows, columns) in enumerate(passes[1:], start=1):
        assert columns == 1
        assert int((lengths > step).sum()) <= rows < int((lengths > step).sum()) / 0.8 + 1
    assert passes[-1][0] < 48
    assert len(passes) == lengths.max()


def test_a_token_budget_bounds_the_cache(model: PreTrainedModel) -> None:
    prompts = [[5] * length for length in (1, 9, 2, 8, 4, 4)]
    engine = CompactEngine(max_tokens=60)
    expected = rows_of(CompactEngine().generate(request_for(model, prompts, 3, SAMPLING, range(6))))
    with recorded(model) as passes:
        assert rows_of(engine.generate(request_for(model, prompts, 3, SAMPLING, range(6)))) == expected
    # Longest first: 60 // (9 + 6) = 4 rows, of prompts of 9 and 8 tokens; 60 // (8 + 6) = 4, of 8 and 4 tokens;
    # 60 // (4 + 6) = 6, of 4 tokens, read once for both such prompts, and of 2; the last 4 have 2 and 1.
    assert [(rows, columns) for rows, columns in passes if columns > 1] == [(2, 9), (2, 8), (2, 4), (2, 2)]
    assert max(rows for rows, columns in passes if columns == 1) <= 6


@pytest.mark.parametrize("check_every", [1, 4])
def test_the_last_rows_of_a_budget_wait_for_each_other(monkeypatch: pytest.MonkeyPatch, check_every: int) -> None:
    """One row in 16 goes on to the limit; in 4 budgets of 32 rows, 2 each, they are read again and end together."""
    model = build(MISTRAL)
    prompts = [[2 + i % 30] * (9 + i // 16 % 2) for i in range(128)]
    sampling = SamplingParams(max_completion_length=24, stop_token_ids=(0,), pad_token_id=3)

    def noise(seeds: Any, counts: Any, length: int, starts: Any) -> Tensor:
        drawn = uniform_noise(seeds, counts, length, starts) / 100 + 0.99  # the stop token is the first word
        drawn[torch.arange(128) % 16 != 0, 3] = 0.0
        return drawn

    for module in (compact_module, generate_module):
        monkeypatch.setattr(module, "uniform_noise", noise)
    monkeypatch.setitem(decoding.CHECK_EVERY, "cpu", check_every)
    expected = GenerateEngine().generate(request_for(model, prompts, 1, sampling, range(128)))
    assert sorted(expected.lengths.tolist()) == [4] * 120 + [24] * 8
    with recorded(model) as passes:
        parts = CompactEngine(max_tokens=32 * 34, logprobs=True).generate(
            request_for(model, prompts, 1, sampling, range(128))
        )
    assert rows_of(parts) == rows_of(expected)
    trial, read = passes[0], [shape for shape in passes if shape[1] > 1][1:]
    assert trial == (1, 2)
    assert [columns for _, columns in read] == [10, 10, 9, 9, 14]
    assert read[-1] == (8, 14)  # prompts of 10 and 9 tokens, with the 4 that were drawn
    assert len(passes) == 1 + 4 * 4 + 20  # instead of 4 × 24
    logprobs, _ = completion_logprobs(model, parts)
    mask = parts.completion_mask
    assert parts.logprobs is not None
    torch.testing.assert_close(parts.logprobs[mask], logprobs[mask].detach(), atol=1e-4, rtol=0)


def test_looking_seldom_for_what_has_ended_changes_nothing(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = CompactEngine(logprobs=True).generate(request_for(model, PROMPTS, 16, SAMPLING, SEEDS))
    monkeypatch.setitem(decoding.CHECK_EVERY, "cpu", 4)
    with recorded(model) as passes:
        seldom = CompactEngine(logprobs=True).generate(request_for(model, PROMPTS, 16, SAMPLING, SEEDS))
    assert {rows for rows, columns in passes[1:4]} == {48}
    assert rows_of(seldom) == rows_of(expected)
    assert torch.equal(seldom.completion_ids, expected.completion_ids)
    torch.testing.assert_close(seldom.logprobs, expected.logprobs, equal_nan=True)


def test_a_row_larger_than_the_budget_goes_alone(model: PreTrainedModel) -> None:
    with recorded(model) as passes:
        alone = CompactEngine(max_tokens=1).generate(request_for(model, PROMPTS, 2, SAMPLING, SEEDS))
    assert {rows for rows, _ in passes} == {1}
    assert rows_of(alone) == rows_of(CompactEngine().generate(request_for(model, PROMPTS, 2, SAMPLING, SEEDS)))


def test_a_budget_is_positive() -> None:
    with pytest.raises(ValueError, match="max_tokens=0; expected at least 1"):
        CompactEngine(max_tokens=0)


@contextmanager
def memory_for(model: PreTrainedModel, rows: int) -> Iterator[None]:
    """The model runs out of memory at its third column with more rows than these."""

    def fail(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > rows and kwargs["past_key_values"].get_seq_length() > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def test_completions_are_the_same_after_memory_ran_out(model: PreTrainedModel) -> None:
    engine = CompactEngine()
    expected = rows_of(engine.generate(request_for(model, PROMPTS, 16, SAMPLING, SEEDS)))
    with (
        memory_for(model, rows=30),
        pytest.warns(UserWarning, match="out of memory with 48 completions at once, 432 tokens.*max_tokens=216"),
    ):
        assert rows_of(engine.generate(request_for(model, PROMPTS, 16, SAMPLING, SEEDS))) == expected
    assert engine.max_tokens == 48 * 9 // 2
    with memory_for(model, rows=30):  # the lower budget stays: no second failure, no second warning
        assert rows_of(engine.generate(request_for(model, PROMPTS, 16, SAMPLING, SEEDS))) == expected


@pytest.mark.filterwarnings("ignore:out of memory")
def test_a_single_row_that_does_not_fit_is_an_error(model: PreTrainedModel) -> None:
    with memory_for(model, rows=0), pytest.raises(torch.OutOfMemoryError, match="one completion of 9 tokens"):
        CompactEngine().generate(request_for(model, PROMPTS, 2, SAMPLING, SEEDS))


def test_other_errors_are_raised(model: PreTrainedModel) -> None:
    with pytest.raises(IndexError):
        CompactEngine().generate(request_for(model, [[5, 99]], 2, SAMPLING, [1]))  # there are 12 words


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_are_those_of_the_sampling_distribution(model: PreTrainedModel, temperature: float) -> None:
    sampling = SamplingParams(6, (1,), 0, temperature)
    rollouts = CompactEngine(max_tokens=100, logprobs=True).generate(request_for(model, PROMPTS, 8, sampling, SEEDS))
    expected, _ = completion_logprobs(model, rollouts, temperature)
    assert rollouts.logprobs is not None
    assert rollouts.logprobs.dtype == torch.float32
    mask = rollouts.completion_mask
    torch.testing.assert_close(rollouts.logprobs[mask], expected[mask].detach(), atol=1e-4, rtol=0)
    assert rollouts.logprobs[~mask].isnan().all()
    assert (~mask).any()


def test_logprobs_are_left_to_the_trainer_unless_asked_for(model: PreTrainedModel) -> None:
    assert CompactEngine().generate(request_for(model, PROMPTS, 2, SAMPLING, SEEDS)).logprobs is None


def test_what_is_certain_has_log_probability_zero(model: PreTrainedModel) -> None:
    greedy = SamplingParams(6, (1,), 0, temperature=0)
    rollouts = CompactEngine(logprobs=True).generate(request_for(model, PROMPTS, 2, greedy, SEEDS))
    assert rollouts.logprobs is not None
    assert (rollouts.logprobs[rollouts.completion_mask] == 0).all()


def test_adapters_are_at_work_unmerged(model: PreTrainedModel) -> None:
    plain = rows_of(CompactEngine().generate(request_for(model, PROMPTS, 8, SAMPLING, SEEDS)))
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    rollouts = CompactEngine(logprobs=True).generate(request_for(adapted.get_base_model(), PROMPTS, 8, SAMPLING, SEEDS))
    expected, _ = completion_logprobs(adapted, rollouts)
    mask = rollouts.completion_mask
    assert rollouts.logprobs is not None
    torch.testing.assert_close(rollouts.logprobs[mask], expected[mask].detach(), atol=1e-4, rtol=0)
    assert rows_of(rollouts) != plain
    assert all(torch.equal(before[name], tensor) for name, tensor in adapted.state_dict().items())


def test_gradients_flow_after_sampling_under_the_same_autocast(model: PreTrainedModel) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        rollouts = CompactEngine(logprobs=True).generate(request_for(model, PROMPTS, 8, SAMPLING, SEEDS))
        logprobs, _ = completion_logprobs(model, rollouts)
        mask = rollouts.completion_mask
        (logprobs[mask] * rollouts.logprobs[mask]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    generated = GenerateEngine().generate(request_for(model, PROMPTS, 8, SAMPLING, SEEDS))
    same = sum(a == b for a, b in zip(rows_of(rollouts), rows_of(generated), strict=True))
    assert same >= 16  # of 24; the other one sampled in float32
