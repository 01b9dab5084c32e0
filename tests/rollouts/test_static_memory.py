"""The memory of static caches stays in place, comes in few sizes, and is released."""

# P prompts, n completions each.

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from decoding_helpers import QWEN3, build, random_prompts
from rollout_helpers import assert_same, request_for

from bots_lightning.rollouts import (
    CompactEngine,
    SamplingParams,
    static_memory,
)
from bots_lightning.rollouts.static_memory import size_for

SAMPLING = SamplingParams(max_completion_length=20, stop_token_ids=(1, 2, 3), pad_token_id=0)


@pytest.mark.usefixtures("uncompiled")
def test_the_cache_stays_in_place_until_more_is_needed() -> None:
    model = build(QWEN3)

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
    model = build(QWEN3)
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


@pytest.mark.usefixtures("uncompiled")
def test_out_of_memory_releases_the_cache() -> None:
    model, prompts = build(QWEN3), random_prompts(8, longest=4)
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
