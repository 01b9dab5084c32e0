"""Tokens that the policy did not sample, such as a tool's answer: read as context, and never learned from."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm_helpers import Assembled, assert_same_gradients, groups_of, largest
from torch import Tensor

from bots_lightning.algorithms import GRPO, PPO, Experience
from bots_lightning.algorithms.losses import BatchSize
from bots_lightning.algorithms.meter import Meter
from bots_lightning.rollouts import Rollouts

LENGTHS, PROMPTS, REWARDS = [6, 5, 4, 6], [2, 5, 3, 1], [1.0, 0.0, 0.25, 0.75]
# True on the tokens that the policy sampled; tools answer inside, twice, at the end, and never.
SAMPLED = [[1, 1, 0, 0, 1, 1], [1, 0, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
TOKENS = sum(map(sum, SAMPLED))
EXTRAS = {"kl_coef": 0.1, "entropy_coef": 0.05}


@pytest.fixture
def rollouts(make_rollouts: Callable[..., Rollouts]) -> Rollouts:
    return replace(make_rollouts(LENGTHS, PROMPTS), action_mask=torch.tensor(SAMPLED, dtype=torch.bool))


def algorithms() -> dict[str, Callable[[], Any]]:
    losses = {
        f"grpo {loss_type}": lambda loss_type=loss_type: GRPO(loss_type=loss_type, num_iterations=2, **EXTRAS)
        for loss_type in ("grpo", "dr_grpo", "dapo", "bnpo")
    }
    sequence = {"gspo": lambda: GRPO(importance_sampling_level="sequence", num_iterations=2, **EXTRAS)}
    return losses | sequence | {"ppo": lambda: PPO(cliprange=9.0, whiten_rewards=True, **EXTRAS)}


every_algorithm = pytest.mark.parametrize("algorithm", algorithms().values(), ids=algorithms())


def prepared(algorithm: Any, checkpoint: str, shake: Any, rollouts: Rollouts) -> tuple[Assembled, Experience]:
    """A policy that has moved since its rollouts were recorded."""
    module = Assembled(algorithm, checkpoint)
    shake(module)
    experience, _ = module.prepare(groups_of(rollouts, REWARDS, [4]))
    shake(module, std=0.02, seed=1)
    return module, experience


@every_algorithm
def test_no_gradient_reaches_what_was_not_sampled(
    checkpoint: str, shake: Any, rollouts: Rollouts, algorithm: Callable[[], Any]
) -> None:
    """Neither log-probability, nor entropy, nor value of such a token has one; all of the others have."""
    module, experience = prepared(algorithm(), checkpoint, shake, rollouts)
    outputs: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple) else (output,):
            tensor.retain_grad()
            outputs.append(tensor)

    module.policy.register_forward_hook(keep)
    if module.critic is not None:
        module.critic.register_forward_hook(keep)
    module.gradients(experience)
    assert len(outputs) == (2 if module.critic is None else 3)
    for output in outputs:
        assert output.grad is not None
        assert torch.equal(output.grad != 0, rollouts.action_mask)


@every_algorithm
def test_what_is_known_of_such_a_token_changes_nothing(
    checkpoint: str, shake: Any, rollouts: Rollouts, algorithm: Callable[[], Any]
) -> None:
    module, experience = prepared(algorithm(), checkpoint, shake, rollouts)
    loss, gradients = module.gradients(experience)
    holes, generator = rollouts.completion_mask & ~rollouts.action_mask, torch.Generator().manual_seed(0)
    changed = {}
    for name in ("old_logprobs", "ref_logprobs", "sampling_logprobs", "values", "returns", "advantages"):
        value = getattr(experience, name)
        if value is not None and value.ndim == 2:
            changed[name] = torch.where(holes, torch.randn(value.shape, generator=generator).to(value), value)
    assert {"old_logprobs", "ref_logprobs"} <= changed.keys()
    other_loss, other_gradients = module.gradients(replace(experience, **changed))
    assert other_loss == loss
    assert largest(gradients) > 1e-3
    assert_same_gradients(gradients, other_gradients, atol=0)


@pytest.mark.parametrize("algorithm", [GRPO, PPO])
def test_recorded_logprobs_of_such_a_token_do_not_enter_importance_weights(
    checkpoint: str, shake: Any, rollouts: Rollouts, algorithm: Any
) -> None:
    module = Assembled(algorithm(), checkpoint)
    shake(module)
    present = module.policy.logprobs(rollouts)
    found = []
    for value in (-1.0, -9.0):
        recorded = torch.where(rollouts.action_mask, present - 0.1, value)
        experience, _ = module.prepare(groups_of(replace(rollouts, logprobs=recorded), REWARDS, [4]))
        found.append(module.gradients(experience))
    assert found[0][0] == found[1][0]
    assert_same_gradients(found[0][1], found[1][1], atol=0)


def test_it_is_read_as_context(checkpoint: str, shake: Any, rollouts: Rollouts) -> None:
    """Another answer changes what the policy thinks of the tokens after it, and of none before."""
    module = Assembled(GRPO(), checkpoint)
    shake(module)
    before = module.policy.logprobs(rollouts)
    row, answer = 0, 2
    ids = rollouts.completion_ids.clone()
    ids[row, answer] = (ids[row, answer] + 1) % 12
    after = module.policy.logprobs(replace(rollouts, completion_ids=ids))
    changed = (after - before).abs() > 1e-6
    assert changed[row].tolist() == [t >= answer for t in range(6)]
    assert not changed[1:].any()


def test_the_learned_tokens_are_the_sampled_ones(checkpoint: str, rollouts: Rollouts) -> None:
    for algorithm in (GRPO(), PPO()):
        module = Assembled(algorithm, checkpoint)
        groups = groups_of(rollouts, [1.0, 0.0, float("nan"), 0.5], [4])
        experience, _ = module.prepare(groups)
        expected = rollouts.action_mask & torch.tensor([[True], [True], [False], [True]])
        assert torch.equal(experience.mask, expected)
        size = module.algorithm.size(experience.mask, module.context)
        assert size == BatchSize(4, float(TOKENS - sum(SAMPLED[2])), 6)


@every_algorithm
def test_metrics_are_means_over_the_sampled_tokens(
    checkpoint: str, shake: Any, rollouts: Rollouts, algorithm: Callable[[], Any]
) -> None:
    module, experience = prepared(algorithm(), checkpoint, shake, rollouts)
    meter = Meter()
    module.gradients(experience, meter)
    with torch.no_grad():
        logprobs, entropy = module.policy(rollouts)
    mask = rollouts.action_mask
    assert int(mask.sum()) == TOKENS
    assert meter.mean("entropy") == pytest.approx(float(entropy[mask].mean()), abs=1e-6)
    assert experience.old_logprobs is not None
    moved = (logprobs - experience.old_logprobs)[mask].square().mean() / 2
    assert meter.mean("approxkl") == pytest.approx(float(moved), rel=1e-5)


# --- PPO's rewards and values of tokens -----------------------------------------------------------------------------


def test_the_score_comes_with_the_last_sampled_token_and_the_penalty_with_all_of_them(
    checkpoint: str, shake: Any, rollouts: Rollouts
) -> None:
    """λ = 1, and a critic that expects nothing: a token's return is the sum of what comes from it on."""
    module = Assembled(PPO(kl_coef=0.2, lam=1.0), checkpoint)
    shake(module)
    torch.nn.init.zeros_(module.critic.head.weight)
    torch.nn.init.zeros_(module.critic.head.bias)
    experience, metrics = module.prepare(groups_of(rollouts, REWARDS, [4]))
    assert experience.returns is not None
    difference = module.policy.logprobs(rollouts) - module.policy.reference_logprobs(rollouts)
    kl = []
    for row, sampled in enumerate(SAMPLED):
        places = [t for t, own in enumerate(sampled) if own]
        kl.append([float(difference[row, t]) for t in places])
        for place, t in enumerate(places):
            expected = REWARDS[row] - 0.2 * sum(kl[-1][place:])
            assert float(experience.returns[row, t]) == pytest.approx(expected, abs=1e-5)
        others = [t for t in range(6) if not sampled[t]]
        assert not experience.returns[row, others].any()
        assert not experience.advantages[row, others].any()
    assert metrics["kl"] == pytest.approx(sum(map(sum, kl)) / TOKENS, abs=1e-5)
    assert metrics["objective/kl"] == pytest.approx(sum(map(sum, kl)) / 4, abs=1e-5)
