"""Prompts are read once, ended rows are dropped, budgets hold; and the tokens are those of `generate`."""

# P prompts, n completions each, R = P·n rows, T completion tokens.

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import GenerateEngine, GenerationRequest, Rollouts, SamplingParams, decoding
from bots_lightning.rollouts import compact as compact_module
from bots_lightning.rollouts import generate as generate_module
from bots_lightning.rollouts import reader as reader_module
from bots_lightning.rollouts.compact import CompactEngine
from bots_lightning.rollouts.noise import uniform_noise

VOCABULARY = 40
SPECIAL: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
SHAPE: dict[str, Any] = {
    **SPECIAL,
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
OLD: dict[str, Any] = {**SPECIAL, "vocab_size": VOCABULARY, "initializer_range": 0.3}
GEMMA: dict[str, Any] = {**SHAPE, "head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 16}
FAMILIES: dict[str, PreTrainedConfig] = {
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2, one layer sliding": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "llama": LlamaConfig(**SHAPE),
    "mistral, sliding": MistralConfig(**SHAPE, sliding_window=5),
    "gemma2, alternating": Gemma2Config(**GEMMA),
    "gemma3, alternating": Gemma3TextConfig(**GEMMA, layer_types=["sliding_attention", "full_attention"]),
    "gpt2, absolute positions": GPT2Config(**OLD, n_embd=32, n_layer=2, n_head=2, n_positions=128),
    "opt, absolute positions": OPTConfig(
        **SPECIAL,
        vocab_size=VOCABULARY,
        init_std=0.3,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
    ),
    "bloom, no positions": BloomConfig(**OLD, hidden_size=32, n_layer=2, n_head=2),
    "gpt-neox": GPTNeoXConfig(**{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}),
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
OTHERS: dict[str, tuple[PreTrainedConfig, str]] = {
    "mamba": (
        MambaConfig(**SPECIAL, vocab_size=40, hidden_size=32, num_hidden_layers=2, state_size=8),
        "takes no past",
    ),
    "qwen3-next": (
        Qwen3NextConfig(**SHAPE, **EXPERTS, **LINEAR, layer_types=["linear_attention", "full_attention"]),
        "has cache layers of kind LinearAttentionLayer",
    ),
    "phi3": (Phi3Config(**SHAPE), "prepares its inputs in a way of its own"),
}
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1,), pad_token_id=0)
PROMPTS = [[5, 6, 7], [8], [9, 10]]
SEEDS = [1, 2, 3]


def request_for(
    model: Any, prompts: Any, n: int, sampling: SamplingParams, seeds: Any, **more: Any
) -> GenerationRequest:
    """n completions of every prompt."""
    return GenerationRequest(model, prompts, [n] * len(prompts), sampling, seeds, **more)


def build(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def random_prompts(number: int, longest: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest + 1, (number,), generator=generator).tolist()
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def rows_of(rollouts: Rollouts) -> list[list[int]]:
    rows = zip(rollouts.completion_ids, rollouts.completion_mask, strict=True)
    return [ids[mask].tolist() for ids, mask in rows]


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[list[tuple[int, int]]]:
    """(rows, columns) of every pass through the model."""
    passes: list[tuple[int, int]] = []

    def record(_: Any, args: Any, kwargs: dict[str, Tensor]) -> None:
        passes.append(tuple(kwargs["input_ids"].shape))

    hook = model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


# --- model families ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:BloomForCausalLM prepares its inputs")  # before transformers 5.23
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_generate(family: str) -> None:
    model, prompts = build(FAMILIES[family]), random_prompts(200, longest=24)
    sampling = SamplingParams(max_completion_length=20, stop_token_ids=(1, 2, 3), pad_token_id=0, temperature=0)
    expected = rows_of(GenerateEngine().generate(request_for(model, prompts, 1, sampling, range(200))))
    assert (
        rows_of(CompactEngine(max_tokens=100 * 44).generate(request_for(model, prompts, 1, sampling, range(200))))
        == expected
    )
    assert len({tuple(row) for row in expected}) > 30
    assert len({len(row) for row in expected}) > 1


@pytest.mark.parametrize("other", OTHERS)
def test_a_cache_that_cannot_drop_rows_is_left_to_generate_with_one_warning(other: str) -> None:
    config, reason = OTHERS[other]
    model, prompts = build(config), random_prompts(6, longest=5)
    engine = CompactEngine(max_tokens=40)
    with pytest.warns(UserWarning, match=reason):
        first = engine.generate(request_for(model, prompts, 2, SAMPLING, range(6)))
    with warnings.catch_warnings(), recorded(model) as passes:
        warnings.simplefilter("error")
        second = engine.generate(request_for(model, prompts, 2, SAMPLING, range(6)))
    assert (
        rows_of(first)
        == rows_of(second)
        == rows_of(GenerateEngine().generate(request_for(model, prompts, 2, SAMPLING, range(6))))
    )
    longest = max(map(len, prompts))
    assert max(rows for rows, _ in passes) == 40 // (longest + 6)  # the budget holds here too


def test_prompts_are_read_in_pieces_where_they_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = build(FAMILIES["gemma3, alternating"]), random_prompts(20, longest=24)
    whole = CompactEngine().generate(request_for(model, prompts, 2, SAMPLING, range(20)))
    monkeypatch.setattr(reader_module, "PREFILL_TOKENS", 7 * 20)
    with recorded(model) as passes:
        pieces = CompactEngine().generate(request_for(model, prompts, 2, SAMPLING, range(20)))
    longest = max(map(len, prompts))
    assert passes[: longest // 7] == [(20, 7)] * (longest // 7)
    assert rows_of(pieces) == rows_of(whole)


# --- what it saves ----------------------------------------------------------------------------------------------


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
    model = build(FAMILIES["mistral, sliding"])
    prompts = [[2 + i % 30] * (9 + i // 16 % 2) for i in range(128)]
    sampling = SamplingParams(max_completion_length=24, stop_token_ids=(0,), pad_token_id=3)

    def noise(seeds: Any, counts: Any, length: int) -> Tensor:
        drawn = uniform_noise(seeds, counts, length) / 100 + 0.99  # the stop token is the first word
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


# --- out of memory ----------------------------------------------------------------------------------------------


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


# --- log-probabilities ------------------------------------------------------------------------------------------


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


# --- how policies come ------------------------------------------------------------------------------------------


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
