"""A cache that stays in place and a compiled step change no tokens, and one compilation serves all sizes."""

# P prompts, n completions each, R rows, V vocabulary.

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from bots_lightning.rollouts import (
    CompactEngine,
    GenerateEngine,
    GenerationRequest,
    Rollouts,
    SamplingParams,
    decoding,
    static,
    static_memory,
)
from bots_lightning.rollouts.padding import pad_left
from bots_lightning.rollouts.reader import Reader, can_read
from bots_lightning.rollouts.static import StaticReader, next_logits
from bots_lightning.rollouts.static_memory import size_for

# Of the compiler's own imports.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")

VOCABULARY = 40
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


def request_for(
    model: Any, prompts: Any, n: int, sampling: SamplingParams, seeds: Any, **more: Any
) -> GenerationRequest:
    """n completions of every prompt."""
    return GenerationRequest(model, prompts, [n] * len(prompts), sampling, seeds, **more)


def build(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(deepcopy(config)).eval()


def random_prompts(number: int, longest: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (number,), generator=generator).tolist()
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def rows_of(rollouts: Rollouts) -> list[list[int]]:
    rows = zip(rollouts.completion_ids, rollouts.completion_mask, strict=True)
    return [ids[mask].tolist() for ids, mask in rows]


def assert_same(seen: Rollouts, expected: Rollouts) -> None:
    assert rows_of(seen) == rows_of(expected)
    torch.testing.assert_close(seen.logprobs, expected.logprobs, atol=1e-4, rtol=0, equal_nan=True)


def lora_weights(model: PreTrainedModel) -> list[Tensor]:
    return [weight for name, weight in model.named_parameters() if "lora_" in name]


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "compiled_step", lambda _: next_logits)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
    """Counts the graphs that are compiled; they are not optimised."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    step = torch.compile(next_logits, backend=counter)
    monkeypatch.setattr(decoding, "compiled_step", lambda _: step)
    yield counter
    torch._dynamo.reset()


@contextmanager
def called(model: PreTrainedModel) -> Iterator[list[tuple[str, int, int]]]:
    """(kind of cache, rows, columns) of every pass through the model."""
    passes: list[tuple[str, int, int]] = []

    def record(_: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        passes.append((type(kwargs["past_key_values"]).__name__, *kwargs["input_ids"].shape))

    hook = model.register_forward_hook(record, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


# --- the same tokens --------------------------------------------------------------------------------------------


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


# --- what is compiled, and what stays ---------------------------------------------------------------------------


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


@pytest.mark.usefixtures("uncompiled")
def test_the_cache_stays_in_place_until_more_is_needed() -> None:
    model = build(FAMILIES["qwen3"])

    def addresses(rows: int, limit: int) -> list[int]:
        sampling = SamplingParams(limit, (1, 2, 3), 0)
        CompactEngine(static=True).generate(request_for(model, [[5, 6, 7]], rows, sampling, [0]))
        return [memory.data_ptr() for memory in static_memory._memory[model]]

    first = addresses(12, limit=60)
    assert len(set(first)) == 4  # keys and values of two layers
    assert addresses(12, limit=30) == addresses(7, limit=60) == first
    # 3 + 60 columns come in 64, of 1 head of 16.
    assert {memory.numel() for memory in static_memory._memory[model]} == {12 * 64 * 16}
    addresses(12, limit=70)
    assert {memory.numel() for memory in static_memory._memory[model]} == {12 * 80 * 16}


@pytest.mark.usefixtures("uncompiled")
def test_the_memory_goes_with_the_model() -> None:
    model = build(FAMILIES["qwen3"])
    CompactEngine(static=True).generate(request_for(model, [[5, 6, 7]], 2, SAMPLING, [0]))
    gc.collect()
    before = len(static_memory._memory)
    del model
    gc.collect()
    assert len(static_memory._memory) == before - 1


def test_sizes_are_few_and_no_smaller_than_what_they_hold() -> None:
    assert sorted({size_for(number, 4, 4) for number in range(1, 33)}) == [
        4,
        5,
        6,
        7,
        8,
        10,
        12,
        14,
        16,
        20,
        24,
        28,
        32,
    ]
    assert sorted({size_for(number, 4, 2) for number in range(1, 33)}) == [4, 6, 8, 12, 16, 24, 32]
    for steps in (1, 2, 4):
        for number in range(4, 300):
            assert number <= size_for(number, 4, steps) < number * (1 + 1 / steps)


# --- what it is not right for -----------------------------------------------------------------------------------


def cut_at_the_end(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention that takes the last of the columns for the present one, as some kernels do."""
    groups = query.shape[1] // key.shape[1]
    key, value = (state.repeat_interleave(groups, dim=1) for state in (key, value))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1)
    return output.transpose(1, 2), None


def hooked(model: PreTrainedModel) -> None:
    model.lm_head.register_forward_pre_hook(lambda module, args: None)


def partitioned(model: PreTrainedModel) -> None:
    """As DeepSpeed marks a parameter that is spread over ranks."""
    model.lm_head.weight.ds_id = 0


def with_foreign_attention(model: PreTrainedModel) -> None:
    AttentionInterface.register("cut_at_the_end", cut_at_the_end)
    model.set_attn_implementation("cut_at_the_end")


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (hooked, "has hooks that run before its layers"),
        (partitioned, "has weights that ZeRO-3 brings to new addresses"),
        (with_foreign_attention, "comes to other logits"),
    ],
)
def test_models_that_it_is_not_right_for_do_without_and_one_warning_says_so(
    alter: Callable[[PreTrainedModel], None], reason: str, counted: CompileCounterWithBackend
) -> None:
    model, prompts = build(FAMILIES["qwen3"]), random_prompts(6, longest=9)
    alter(model)
    expected = CompactEngine(logprobs=True).generate(request_for(model, prompts, 2, SAMPLING, range(6)))
    engine = CompactEngine(logprobs=True, static=True)
    with pytest.warns(UserWarning, match=reason):
        assert_same(engine.generate(request_for(model, prompts, 2, SAMPLING, range(6))), expected)
    with warnings.catch_warnings(), called(model) as passes:
        warnings.simplefilter("error")
        assert_same(engine.generate(request_for(model, prompts, 2, SAMPLING, range(6))), expected)
    assert {kind for kind, _, _ in passes} == {"DynamicCache"}
    assert counted.frame_count == 0
    assert model not in static_memory._memory


def test_models_that_cannot_drop_rows_are_left_to_generate() -> None:
    config = MambaConfig(**SPECIAL, hidden_size=32, num_hidden_layers=2, state_size=8)
    model, prompts = build(config), random_prompts(4, longest=5)
    with pytest.warns(UserWarning, match="takes no past"):
        seen = CompactEngine(static=True).generate(request_for(model, prompts, 2, SAMPLING, range(4)))
    assert rows_of(seen) == rows_of(GenerateEngine().generate(request_for(model, prompts, 2, SAMPLING, range(4))))


@pytest.mark.usefixtures("uncompiled")
def test_out_of_memory_releases_the_cache() -> None:
    model, prompts = build(FAMILIES["qwen3"]), random_prompts(8, longest=4)
    expected = CompactEngine(logprobs=True).generate(request_for(model, prompts, 4, SAMPLING, range(8)))
    engine = CompactEngine(logprobs=True, static=True)
    engine.generate(request_for(model, prompts, 4, SAMPLING, range(8)))
    whole = sum(memory.numel() for memory in static_memory._memory[model])

    def fail(_: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if len(kwargs["input_ids"]) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.register_forward_hook(fail, with_kwargs=True)
    with pytest.warns(UserWarning, match="out of memory with 32 completions"):
        assert_same(engine.generate(request_for(model, prompts, 4, SAMPLING, range(8))), expected)
    hook.remove()
    assert sum(memory.numel() for memory in static_memory._memory[model]) <= whole / 2
