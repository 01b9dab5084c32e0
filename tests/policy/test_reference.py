"""The reference stays what the policy was before training, and costs nothing where it is not needed."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.policy import LoRA, SeparateCritic
from bots_lightning.policy.loading import load_policy
from bots_lightning.policy.recording import record_logprobs
from bots_lightning.policy.reference import reference_logprobs
from bots_lightning.rollouts import Rollouts

SMALL = LoRA(r=4, alpha=8)


@pytest.fixture
def rollouts(make_rollouts: Any) -> Rollouts:
    return make_rollouts([3, 6, 1, 4], [2, 5, 3, 1])


@pytest.fixture
def base(checkpoint: str, rollouts: Rollouts) -> torch.Tensor:
    """(tokens,) log-probabilities of the pretrained model at temperature 0.7."""
    recorded = record_logprobs(load_policy(checkpoint), rollouts, 0.7).logprobs
    assert recorded is not None
    return recorded[rollouts.completion_mask]


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (GRPO, {"lora": SMALL}),
        (GRPO, {"lora": SMALL, "gradient_checkpointing": True}),
        (GRPO, {"lora": None}),
        (PPO, {"lora": SMALL}),
        (PPO, {"lora": SMALL, "critic": SeparateCritic(lora=SMALL)}),
        (PPO, {"lora": None}),
    ],
    ids=["grpo lora", "grpo checkpointing", "grpo full", "ppo shared", "ppo separate", "ppo full"],
)
def test_the_reference_is_the_pretrained_model_to_the_bit_before_and_after_training(
    build: Any, fit: Any, rollouts: Rollouts, base: torch.Tensor, algorithm: Any, options: dict[str, Any]
) -> None:
    module = build(algorithm, kl_coef=0.1, temperature=0.7, learning_rate=0.05, **options)
    module.configure_model()
    module.policy.load_reference(torch.device("cpu"))
    mask = rollouts.completion_mask
    assert torch.equal(module.policy.reference_logprobs(rollouts)[mask], base)
    fit(module, 2)
    assert torch.equal(module.policy.reference_logprobs(rollouts)[mask], base)
    moved = record_logprobs(module.policy.model, rollouts, 0.7).logprobs
    assert (moved[mask] - base).abs().max() > 0.01


def test_log_probabilities_that_are_recorded_are_not_taken_for_those_of_the_reference(
    checkpoint: str, rollouts: Rollouts, base: torch.Tensor, shake: Any
) -> None:
    policy = load_policy(checkpoint, SMALL)
    shake(policy)
    recorded = record_logprobs(policy, rollouts, 0.7)
    assert recorded.logprobs is not None
    mask = rollouts.completion_mask
    assert (recorded.logprobs[mask] - base).abs().max() > 0.01
    assert torch.equal(reference_logprobs(policy, None, recorded, 0.7)[mask], base)
    in_parts = reference_logprobs(policy, None, recorded, 0.7, max_tokens=12)[mask]
    torch.testing.assert_close(in_parts, base, rtol=0, atol=1e-5)


def test_the_frozen_copy_does_not_train_and_is_not_saved(build: Any, fit: Any, tmp_path: Path) -> None:
    module = build(GRPO, lora=None, kl_coef=0.1)
    run = fit(module, 2)
    assert isinstance(module.policy.reference, nn.Module)
    assert module.policy.reference is not module.policy.model
    assert not any(weight.requires_grad for weight in module.policy.reference.parameters())
    frozen = {id(weight) for weight in module.policy.reference.parameters()}
    of_optimizer = {id(weight) for group in module.optimizers().param_groups for weight in group["params"]}
    assert not frozen & of_optimizer
    run.trainer.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]
    assert saved
    assert all(name.startswith("policy.model.") for name in saved)


@pytest.mark.parametrize(("algorithm", "lora"), [(GRPO, None), (GRPO, SMALL), (PPO, None)])
def test_after_a_resume_the_penalty_is_that_of_the_undisturbed_run(
    build: Any, fit: Any, tmp_path: Path, algorithm: Any, lora: LoRA | None
) -> None:
    def run(iterations: int, ckpt_path: str | None = None) -> Any:
        module = build(algorithm, lora=lora, kl_coef=0.1, learning_rate=0.03)
        every = 2 * module.algorithm.steps_per_iteration
        save = ModelCheckpoint(tmp_path / str(iterations), every_n_train_steps=every, save_last=True)
        options = {"callbacks": [save], "enable_checkpointing": True, "limit_train_batches": 100}
        steps = iterations * module.algorithm.steps_per_iteration
        return fit(module, ckpt_path=ckpt_path, max_steps=steps, max_epochs=-1, **options).history

    whole = run(4)["kl"]
    run(2)
    resumed = run(4, ckpt_path=str(tmp_path / "2" / "last.ckpt"))["kl"]
    assert resumed == whole[2:]
    assert min(map(abs, resumed)) > 1e-3


def test_without_a_penalty_there_is_no_copy_and_under_lora_there_is_none_either(build: Any) -> None:
    for options in ({"lora": None, "kl_coef": 0.0}, {"lora": SMALL, "kl_coef": 0.1}):
        module = build(GRPO, **options)
        module.configure_model()
        assert module.policy.reference is None
        assert all(name.startswith("policy.model.") for name, _ in module.named_parameters())
