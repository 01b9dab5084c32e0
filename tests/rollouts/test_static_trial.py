"""Models that a static cache is not right for do without."""

# P prompts, n completions each.

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from decoding_helpers import QWEN3, SPECIAL, build, called, random_prompts
from rollout_helpers import assert_same, request_for, rows_of
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import (
    AttentionInterface,
    MambaConfig,
    PreTrainedModel,
)

from bots_lightning.rollouts import (
    CompactEngine,
    GenerateEngine,
    SamplingParams,
    static_memory,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
)  # of the compiler's imports

SAMPLING = SamplingParams(max_completion_length=20, stop_token_ids=(1, 2, 3), pad_token_id=0)


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
    model, prompts = build(QWEN3), random_prompts(6, longest=9)
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
