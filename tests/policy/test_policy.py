"""The policy: its options, when it is loaded, and what it computes of rollouts."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from bots_lightning.policy import LoRA, Policy
from bots_lightning.policy.base_model import base_digest
from bots_lightning.policy.loading import load_policy
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import Rollouts

SMALL = LoRA(r=4, alpha=8)


def loaded(checkpoint: str, lora: LoRA | None = SMALL, **options: Any) -> Policy:
    policy = Policy(checkpoint, lora, **options)
    policy.load(seed=3)
    return policy


@pytest.fixture
def rollouts(make_rollouts: Callable[..., Rollouts]) -> Rollouts:
    return make_rollouts([3, 6, 1, 4], [2, 5, 3, 1])


@pytest.mark.parametrize(("option", "value"), [("max_tokens_per_microbatch", -5), ("temperature", 0.0)])
def test_a_number_out_of_bounds_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}; expected"):
        Policy("no/such/folder", **{option: value})


def test_weights_that_would_lose_their_updates_to_rounding_are_refused(checkpoint: str) -> None:
    with pytest.raises(ValueError, match="full finetuning of bfloat16 weights loses most updates"):
        Policy(checkpoint, dtype="bfloat16")
    assert Policy(checkpoint, SMALL, dtype="bfloat16").dtype_name == "bfloat16"


def test_nothing_is_loaded_before_it_is_asked_for(checkpoint: str) -> None:
    policy = Policy(checkpoint, SMALL)
    assert not policy.is_loaded
    assert not list(policy.parameters())
    policy.load(seed=0)
    assert policy.is_loaded
    assert {name.split(".")[0] for name, _ in policy.named_parameters()} == {"model"}


def test_it_is_the_checkpoints_model_with_adapters_of_the_seed(checkpoint: str) -> None:
    policy, expected = loaded(checkpoint), load_policy(checkpoint, SMALL, seed=3)
    weights = dict(policy.model.named_parameters())
    assert weights.keys() == dict(expected.named_parameters()).keys()
    assert all(torch.equal(weights[name], weight) for name, weight in expected.named_parameters())
    assert policy.base == {"digest": base_digest(expected), "pretrained": checkpoint}
    assert policy.context_length() == 128


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("budget", [None, 12])
def test_log_probabilities_are_those_of_its_model_at_its_temperature(
    checkpoint: str, shake: Any, rollouts: Rollouts, temperature: float, budget: int | None
) -> None:
    policy = loaded(checkpoint, temperature=temperature, max_tokens_per_microbatch=budget)
    shake(policy)
    mask = rollouts.completion_mask
    expected, entropy = completion_logprobs(policy.model, rollouts, temperature)
    logprobs, entropies = policy(rollouts)
    assert logprobs.requires_grad
    assert torch.equal(logprobs, expected)
    assert torch.equal(entropies, entropy)
    without_gradient = policy.logprobs(rollouts)
    assert not without_gradient.requires_grad
    torch.testing.assert_close(without_gradient[mask], expected[mask].detach(), rtol=0, atol=1e-5)
    assert without_gradient[~mask].isnan().all()


def test_what_is_recorded_already_stays(checkpoint: str, rollouts: Rollouts) -> None:
    policy = loaded(checkpoint)
    earlier = torch.full((4, 6), torch.nan)
    earlier[1] = -2.0
    recorded = policy.recorded(replace(rollouts, logprobs=earlier)).logprobs
    assert recorded is not None
    assert recorded[1].tolist() == [-2.0] * 6
    assert torch.equal(recorded[0, :3], policy.logprobs(rollouts)[0, :3])


@pytest.mark.parametrize("lora", [SMALL, None], ids=["lora", "full"])
def test_the_reference_is_the_policy_before_training(
    checkpoint: str, shake: Any, rollouts: Rollouts, lora: LoRA | None
) -> None:
    policy = loaded(checkpoint, lora, temperature=0.7)
    before, mask = policy.logprobs(rollouts), rollouts.completion_mask
    policy.load_reference(torch.device("cpu"))
    frozen = policy.reference
    assert (frozen is None) == (lora is not None)
    policy.load_reference(torch.device("cpu"))
    assert policy.reference is frozen  # loaded once
    shake(policy)
    assert torch.equal(policy.reference_logprobs(rollouts)[mask], before[mask])
    assert (policy.logprobs(rollouts)[mask] - before[mask]).abs().max() > 0.01
    if isinstance(frozen, nn.Module):
        assert not any(weight.requires_grad for weight in frozen.parameters())
