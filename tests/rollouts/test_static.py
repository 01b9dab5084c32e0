"""A cache that stays in place and a compiled step change no tokens, and one compilation serves all sizes."""

# P prompts, n completions each, R rows, V vocabulary.

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoding_helpers import VOCABULARY, build, called, random_prompts
from peft import LoraConfig, get_peft_model
from rollout_helpers import assert_same, request_for, rows_of
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import (
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from bots_lightning.rollouts import (
    CompactEngine,
    GenerateEngine,
    GenerationRequest,
    SamplingParams,
    decoding,
    static,
)
from bots_lightning.rollouts.padding import pad_left
from bots_lightning.rollouts.reader import Reader, can_read
from bots_lightning.rollouts.static import StaticReader, next_logits

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # of the compiler's imports

SPECIAL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.3,
}
SHAPE: dict[str, Any] = {
    **SPECIAL,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "qwen3": Qwen3Config(**SHAPE),
    "mistral, sliding": MistralConfig(**SHAPE, sliding_window=5),
    "gemma3, alternating": Gemma3TextConfig(
        **SHAPE, sliding_window=5, query_pre_attn_scalar=16, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt2, absolute positions": GPT2Config(**SPECIAL, n_embd=32, n_layer=2, n_head=2, n_positions=128),
    "bloom, no positions": BloomConfig(**SPECIAL, hidden_size=32, n_layer=2, n_head=2),
}
SAMPLING = SamplingParams(max_completion_length=20, stop_token_ids=(1, 2, 3), pad_token_id=0)
GREEDY = SamplingParams(max_completion_length=20, stop_token_ids=(1, 2, 3), pad_token_id=0, temperature=0)


def lora_weights(model: PreTrainedModel) -> list[Tensor]:
    return [weight for name, weight in model.named_parameters() if "lora_" in name]


@pytest.mark.filterwarnings("ignore:BloomForCausalLM prepares its inputs")  # before transformers 5.23
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLING], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_cache_that_grows(
    family: str, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "LEAST_COLUMNS", 4)  # so that the cache grows often
    model, prompts = build(FAMILIES[family]), random_prompts(60, longest=24)
    expected = CompactEngine(40 * 44, logprobs=True).generate(request_for(model, prompts, 2, sampling, range(60)))
    with called(model) as passes:
        seen = CompactEngine(40 * 44, logprobs=True, static=True).generate(
            request_for(model, prompts, 2, sampling, range(60))
        )
    assert_same(seen, expected)
    assert len(set(map(tuple, rows_of(expected)))) > 20
    slots = {rows for kind, rows, columns in passes if columns == 1 and kind == "Cache"}
    assert len(slots) > 2 or not can_read(model)
    assert slots <= {4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48}


@pytest.mark.usefixtures("uncompiled")
def test_prompts_may_have_unequal_numbers_of_completions() -> None:
    model, prompts = build(FAMILIES["mistral, sliding"]), random_prompts(20, longest=9)
    request = GenerationRequest(model, prompts, [1 + i % 5 for i in range(20)], SAMPLING, range(20))
    expected = CompactEngine(10 * 29, logprobs=True).generate(request)
    assert_same(CompactEngine(10 * 29, logprobs=True, static=True).generate(request), expected)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("check_every", [1, 4])
def test_rows_that_were_put_aside_go_on_in_a_cache_of_their_own(
    check_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decoding.CHECK_EVERY, "cpu", check_every)
    model, prompts = build(FAMILIES["qwen3"]), random_prompts(64, longest=9)
    sampling = SamplingParams(max_completion_length=60, stop_token_ids=(1, 2, 3), pad_token_id=0)
    expected = GenerateEngine().generate(request_for(model, prompts, 1, sampling, range(64)))
    with called(model) as passes:
        seen = CompactEngine(16 * 69, static=True).generate(request_for(model, prompts, 1, sampling, range(64)))
    assert rows_of(seen) == rows_of(expected)
    budgets = 4
    assert len([kind for kind, _, columns in passes if columns > 1 and kind == "DynamicCache"]) > 1 + budgets


def test_every_row_keeps_its_own_text_when_others_go_and_the_order_changes() -> None:
    model, generator = build(FAMILIES["mistral, sliding"]), torch.Generator().manual_seed(0)
    prompts = pad_left(random_prompts(9, longest=7), 0, model.device)
    rows = torch.tensor([3, 3, 8, 0, 5, 5, 5, 1, 2, 7, 6, 4, 4])
    reader = Reader(model, *prompts, room=40)
    with torch.no_grad():
        reader.read_prompts()
        slots = StaticReader(reader, rows, next_logits)
        reader.select(rows)
        for step in range(40):
            tokens = torch.randint(2, VOCABULARY, (len(rows),), generator=generator)
            torch.testing.assert_close(slots.read(tokens), reader.read(tokens), atol=1e-4, rtol=1e-4)
            assert slots.columns == reader.columns
            if step % 5 == 4:
                kept = torch.randperm(len(rows), generator=generator)[: len(rows) - 2 + step % 2]
                rows = rows[kept]
                slots.select(kept)
                reader.select(kept)
    assert len(rows) == 1


def test_one_compilation_serves_all_sizes_new_weights_and_modes(counted: CompileCounterWithBackend) -> None:
    model = build(FAMILIES["qwen3"])
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1))
    weights, drawn, generator = lora_weights(adapted), [], torch.Generator().manual_seed(0)
    for turn in range(4):
        prompts = random_prompts(5 + 3 * turn, longest=4 + 20 * turn, seed=turn)
        sampling = SamplingParams(16 + 24 * turn, (1, 2, 3), 0)
        seeds = range(len(prompts))
        expected = CompactEngine(logprobs=True).generate(request_for(model, prompts, 3, sampling, seeds))
        assert_same(
            CompactEngine(logprobs=True, static=True).generate(request_for(model, prompts, 3, sampling, seeds)),
            expected,
        )
        drawn.append(rows_of(CompactEngine(static=True).generate(request_for(model, [[5, 6, 7]], 8, SAMPLING, [0]))))
        model.train(turn % 2 == 0)
        adapted(input_ids=torch.tensor([prompts[0] * 2]), labels=torch.tensor([prompts[0] * 2])).loss.backward()
        with torch.no_grad():
            for weight in weights:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
                weight.grad = None
    assert counted.frame_count == 1
    assert len({str(rows) for rows in drawn}) == 4  # new weights, new completions


@pytest.mark.slow
def test_inductor_compiles_once_and_draws_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    step = torch.compile(next_logits, backend=counter)
    monkeypatch.setattr(decoding, "compiled_step", lambda _: step)
    model = build(FAMILIES["gemma3, alternating"])
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    for turn in range(3):
        prompts = random_prompts(20 + 8 * turn, longest=4 + 20 * turn, seed=turn)
        seeds = range(len(prompts))
        expected = CompactEngine(40 * 70, logprobs=True).generate(request_for(model, prompts, 2, SAMPLING, seeds))
        seen = CompactEngine(40 * 70, logprobs=True, static=True).generate(
            request_for(model, prompts, 2, SAMPLING, seeds)
        )
        assert_same(seen, expected)
        with torch.no_grad():
            for weight in lora_weights(adapted):
                weight.mul_(-0.9)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_the_step_that_is_used_is_the_compiled_one() -> None:
    torch._dynamo.reset()
    model, prompts = build(FAMILIES["qwen3"]), random_prompts(12, longest=8)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    seen = CompactEngine(logprobs=True, static=True).generate(request_for(model, prompts, 2, SAMPLING, range(12)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
    assert_same(seen, CompactEngine(logprobs=True).generate(request_for(model, prompts, 2, SAMPLING, range(12))))
