"""The compact engine draws the tokens of `generate`, whatever the family of the model."""

# P prompts, n completions each, R = P·n rows.

from __future__ import annotations

import warnings
from typing import Any

import pytest
from decoding_helpers import VOCABULARY, build, random_prompts, recorded
from rollout_helpers import request_for, rows_of
from transformers import (
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
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from bots_lightning.rollouts import GenerateEngine, SamplingParams
from bots_lightning.rollouts import reader as reader_module
from bots_lightning.rollouts.compact import CompactEngine

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
