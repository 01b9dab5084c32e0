"""A prompt that several rows have is read once, where that is possible, and changes nothing."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from bots_lightning.policy.loading import language_model
from bots_lightning.policy.logprobs import (
    completion_logprobs,
    logits_processing,
)
from bots_lightning.rollouts import Rollouts
from bots_lightning.rollouts.reader import can_read

PROMPTS = [[5, 6, 7, 8], [9], [4, 3]]

COMPLETIONS = [[6, 1], [7, 8, 9, 10, 1], [3]]


def gradients(model: nn.Module, values: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Of a loss of all log-probabilities and entropies, each with a weight of its own."""
    weights = torch.randn(2, len(values[0]), generator=torch.Generator().manual_seed(0))
    loss = (values[0] * weights[0]).sum() + (values[1] * weights[1]).sum()
    names, trained = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, trained), strict=True))


def rollouts_of_groups() -> Rollouts:
    """Prompts of 4, 1 and 2 tokens, three, one and two completions each, in no order."""
    rows = [(0, 0), (1, 1), (0, 1), (2, 2), (0, 2), (2, 0)]
    prompts, completions = ([0, 0, 0, 0], [0] * 5)
    prompt_ids = torch.tensor([prompts[len(PROMPTS[p]) :] + PROMPTS[p] for p, _ in rows])
    completion_ids = torch.tensor([COMPLETIONS[c] + completions[len(COMPLETIONS[c]) :] for _, c in rows])
    finished = torch.ones(len(rows), dtype=torch.bool)
    return Rollouts(prompt_ids, prompt_ids != 0, completion_ids, completion_ids != 0, finished, policy_version=0)


def exact_norm(norm: Any, hidden: Tensor) -> Tensor:
    """The model's own norm computes in float32, whatever it is given."""
    return norm.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon)


def tokens_read(model: PreTrainedModel, rollouts: Rollouts, alone: bool, length: int = 5) -> tuple[Any, ...]:
    """How many tokens the model reads, and values and gradients; of rows together, or of each row alone."""
    rollouts = replace(
        rollouts,
        completion_ids=rollouts.completion_ids[:, :length],
        completion_mask=rollouts.completion_mask[:, :length],
    )
    read = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, args, __: read.append(args[0].numel()))
    parts = [torch.tensor([row]) for row in range(len(rollouts))] if alone else [torch.arange(len(rollouts))]
    values: Any = tuple(torch.zeros(0, dtype=torch.float64) for _ in range(2))
    for part in map(rollouts.rows, parts):
        found = completion_logprobs(model, part)
        values = [torch.cat([so_far, more[part.completion_mask]]) for so_far, more in zip(values, found, strict=True)]
    hook.remove()
    return sum(read), *values, gradients(model, values)


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("lora", [False, True])
def test_a_prompt_of_several_rows_is_read_once_and_changes_nothing(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, lora: bool, length: int
) -> None:
    monkeypatch.setattr(Qwen3RMSNorm, "forward", exact_norm)
    policy: Any = model.double()
    if lora:
        policy = get_peft_model(policy, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).double()
        policy.eval()
    rollouts = rollouts_of_groups()
    logits_processing(policy)  # its trial reads tokens too
    can_read(language_model(policy))
    together, *shared, shared_gradients = tokens_read(policy, rollouts, alone=False, length=length)
    _, *single, single_gradients = tokens_read(policy, rollouts, alone=True, length=length)
    assert together == 3 * 4 + 6 * (length - 1)  # three prompts of 4 with their padding; no token after the last
    for one, other in zip(shared, single, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert shared_gradients.keys() == single_gradients.keys()
    for name, gradient in shared_gradients.items():
        torch.testing.assert_close(gradient, single_gradients[name], rtol=0, atol=1e-11)


@pytest.mark.parametrize("reason", ["train mode", "hooks before the head", "little to save"])
def test_rows_are_read_whole_where_prompts_cannot_be_shared(model: PreTrainedModel, reason: str) -> None:
    rollouts = rollouts_of_groups()
    logits_processing(model)
    if reason == "train mode":
        model.train()
    elif reason == "hooks before the head":
        model.get_output_embeddings().register_forward_pre_hook(lambda *_: None)
    else:
        rollouts = rollouts.rows(torch.tensor([1, 3, 0]))
    read = []
    model.get_input_embeddings().register_forward_hook(lambda _, args, __: read.append(tuple(args[0].shape)))
    completion_logprobs(model, rollouts)
    assert read == [(len(rollouts), rollouts.prompt_ids.shape[1] + rollouts.completion_ids.shape[1])]
