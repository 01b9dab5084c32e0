"""Small random models of many families, prompts for them, and records of their forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen3Config

VOCABULARY = 40
SPECIAL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.3,
}
QWEN3 = Qwen3Config(
    **SPECIAL,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)


def build(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(deepcopy(config)).eval()


def random_prompts(number: int, longest: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (number,), generator=generator).tolist()
    return [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


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
