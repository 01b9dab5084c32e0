"""The critic: what it computes, and which weights it trains."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithm_helpers import Assembled, assert_same_gradients, largest
from critic_helpers import CRITICS, SMALL, SMALLER, critics
from torch import Tensor
from transformers import AutoModelForCausalLM

from bots_lightning.algorithms import PPO, Experience
from bots_lightning.algorithms.meter import Meter
from bots_lightning.policy import LoRA, SeparateCritic, SharedCritic
from bots_lightning.policy.critic import token_values
from bots_lightning.policy.loading import load_policy
from bots_lightning.quickstart.tokenizer import character_tokenizer
from bots_lightning.rollouts import Rollouts
from bots_lightning.training.gradients import gradients


def number(weights: Any) -> int:
    return sum(weight.numel() for weight in weights)


@pytest.fixture
def rollouts(make_rollouts: Any) -> Rollouts:
    return make_rollouts([3, 6, 1, 4], [2, 5, 3, 1])


@pytest.fixture
def experience(rollouts: Rollouts) -> Experience:
    generator = torch.Generator().manual_seed(0)
    mask = rollouts.completion_mask
    advantages, values, returns = torch.randn(3, *mask.shape, generator=generator, dtype=torch.float64)
    return Experience(rollouts, mask, advantages, values=values, returns=returns)


def everything(rollouts: Rollouts) -> list[Tensor]:
    return [torch.arange(len(rollouts))]


# --- values ---------------------------------------------------------------------------------------------------------


@critics
def test_a_fresh_critic_expects_nothing(checkpoint: str, rollouts: Rollouts, lora: LoRA | None, critic: Any) -> None:
    module = Assembled(PPO(critic=critic()), checkpoint, lora, torch.float32)
    values = token_values(module.critic, module.policy.model, rollouts, everything(rollouts))
    assert torch.equal(values, torch.zeros(4, 6))


@critics
def test_a_value_is_that_before_its_token(
    checkpoint: str, shake: Any, rollouts: Rollouts, lora: LoRA | None, critic: Any
) -> None:
    module = Assembled(PPO(critic=critic()), checkpoint, lora)
    shake(module)
    before = token_values(module.critic, module.policy.model, rollouts, everything(rollouts))
    assert before[rollouts.completion_mask].abs().min() > 0
    assert not before[~rollouts.completion_mask].any()
    row, length = 1, 6
    for t in range(length):
        ids = rollouts.completion_ids.clone()
        ids[row, t] = (ids[row, t] + 1) % 12
        after = token_values(
            module.critic, module.policy.model, replace(rollouts, completion_ids=ids), everything(rollouts)
        )
        changed = (after - before).abs() > 1e-9
        assert changed[row].tolist() == [later > t for later in range(length)]
        assert not changed[[0, 2, 3]].any()


def test_values_are_a_linear_head_on_the_hidden_states_of_the_last_layer(
    checkpoint: str, shake: Any, rollouts: Rollouts
) -> None:
    module = Assembled(PPO(), checkpoint, lora=None)
    shake(module)
    computed = token_values(module.critic, module.policy.model, rollouts, [torch.tensor([3]), torch.tensor([0, 2, 1])])
    head = module.critic.head
    for row, length in enumerate([3, 6, 1, 4]):
        prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]]
        ids = torch.cat([prompt, rollouts.completion_ids[row, :length]]).unsqueeze(0)
        hidden = module.critic.model.model(input_ids=ids).last_hidden_state[0]
        expected = hidden[len(prompt) - 1 : -1] @ head.weight[0] + head.bias
        torch.testing.assert_close(computed[row, :length], expected.float(), rtol=0, atol=1e-6)


# --- weights --------------------------------------------------------------------------------------------------------


def test_a_shared_critic_adds_an_adapter_and_a_head_and_no_second_model(build: Any, checkpoint: str) -> None:
    module = build(PPO, critic=SharedCritic(SMALLER))
    module.configure_model()
    base = number(load_policy(checkpoint).parameters())
    first, second = (
        number(weight for weight in load_policy(checkpoint, lora).parameters() if weight.requires_grad)
        for lora in (SMALL, SMALLER)
    )
    head = 32 + 1
    assert number(module.parameters()) == base + first + second + head
    assert number(module.critic.trained(module.policy.model)) == second + head
    assert number(weight for weight in module.parameters() if weight.requires_grad) == first + second + head


def parameter_groups(module: Any) -> list[dict[str, Any]]:
    """Those of its optimizer, at a learning rate of 0.01."""
    return module.algorithm.parameter_groups([weight for weight in module.parameters() if weight.requires_grad], 0.01)


def test_policy_and_critic_have_learning_rates_of_their_own_and_share_no_weight(build: Any) -> None:
    for lora, critic in CRITICS.values():
        module = build(PPO, lora=lora, critic=critic(), critic_learning_rate=0.5)
        module.configure_model()
        of_policy, of_critic = parameter_groups(module)
        assert (of_policy["lr"], of_critic["lr"]) == (0.01, 0.5)
        names = {id(weight): name for name, weight in module.named_parameters()}
        mine, theirs = ({names[id(weight)] for weight in group["params"]} for group in (of_policy, of_critic))
        trained = {name for name, weight in module.named_parameters() if weight.requires_grad}
        assert mine | theirs == trained
        assert not mine & theirs
        assert all("critic" in name for name in theirs)
        assert not any("critic" in name for name in mine)
    module = build(PPO)
    module.configure_model()
    assert [group["lr"] for group in parameter_groups(module)] == [0.01, 0.01]


def test_a_shared_critic_of_a_policy_that_trains_in_full_is_refused(build: Any) -> None:
    with pytest.raises(ValueError, match=r"needs the policy's weights to be frozen.*class_path: .*SeparateCritic"):
        build(PPO, lora=None, critic=SharedCritic()).configure_model()


def test_the_critic_is_shared_under_lora_and_separate_otherwise(build: Any) -> None:
    shared = build(PPO, lora=SMALL).critic
    assert isinstance(shared, SharedCritic)
    assert isinstance(build(PPO, lora=None).critic, SeparateCritic)


@pytest.mark.parametrize(("own", "rank"), [(None, 4), (LoRA(r=3, alpha=5), 3)])
def test_the_shared_critic_has_the_rank_of_the_policys_adapter_unless_it_has_its_own(
    build: Any, own: LoRA | None, rank: int
) -> None:
    module = build(PPO, lora=SMALL, critic=SharedCritic(own))
    module.configure_model()
    layer = module.policy.model.get_base_model().model.layers[0].self_attn.q_proj
    assert (layer.r["default"], layer.r["critic"]) == (4, rank)


def test_a_separate_critic_checkpoints_gradients_as_the_policy_does_unless_told(build: Any) -> None:
    def checkpoints(own: bool | None, policys: bool) -> bool:
        module = build(
            PPO, lora=None, critic=SeparateCritic(gradient_checkpointing=own), gradient_checkpointing=policys
        )
        module.configure_model()
        return any(getattr(module, "gradient_checkpointing", False) for module in module.critic.modules())

    assert [checkpoints(*pair) for pair in ((None, True), (None, False), (False, True), (True, False))] == [
        True,
        False,
        False,
        True,
    ]


def test_values_keep_float32_under_autocast(build: Any) -> None:
    module = build(PPO, lora=SMALL)
    module.configure_model()
    torch.nn.init.ones_(module.critic.head.weight)
    ids = torch.tensor([[5, 6, 7]])
    rollouts = Rollouts(ids, ids > 0, ids, ids > 0, torch.tensor([True]), policy_version=0)
    with torch.autocast("cpu", torch.bfloat16), module.critic.active(module.policy.model), torch.no_grad():
        values = module.critic(module.policy.model, rollouts)
    assert values.dtype == torch.float32
    assert (values.bfloat16().float() != values).any()


def test_a_critic_of_another_vocabulary_and_one_of_trained_bfloat16_are_refused(
    build: Any, checkpoint: str, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(tmp_path)
    character_tokenizer("abc").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another vocabulary"):
        build(PPO, critic=SeparateCritic(str(tmp_path))).configure_model()
    with pytest.raises(ValueError, match="bfloat16 weights"):
        SeparateCritic(dtype="bfloat16")


# --- gradients ------------------------------------------------------------------------------------------------------


def two_gradients(module: Assembled, experience: Experience) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """After the policy's loss, and after the critic's too."""
    found = []
    module.zero_grad()
    size = module.algorithm.size(experience.mask, module.context)
    for loss in module.algorithm.losses(experience, size, Meter(), module.context):
        loss.backward()
        found.append({name: w.grad.clone() for name, w in module.named_parameters() if w.grad is not None})
    policy_gradients, both = found
    return policy_gradients, both


@critics
@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_loss_has_a_gradient_at_its_own_weights_only(
    checkpoint: str, shake: Any, experience: Experience, lora: LoRA | None, critic: Any, checkpointing: bool
) -> None:
    module = Assembled(PPO(critic=critic(checkpointing)), checkpoint, lora, gradient_checkpointing=checkpointing)
    shake(module)
    of_critic = {id(weight) for weight in module.critic.trained(module.policy.model)}
    critics_names = {name for name, weight in module.named_parameters() if id(weight) in of_critic}
    trained = {name for name, weight in module.named_parameters() if weight.requires_grad}
    first, both = two_gradients(module, experience)
    assert first.keys() == trained - critics_names
    assert both.keys() == trained
    assert all(torch.equal(both[name], gradient) for name, gradient in first.items())
    assert all(gradient.any() for gradient in both.values())


@critics
def test_gradient_checkpointing_changes_no_gradient(
    checkpoint: str, shake: Any, experience: Experience, lora: LoRA | None, critic: Any
) -> None:
    def found(checkpointing: bool) -> dict[str, Tensor]:
        algorithm = PPO(critic=critic(checkpointing), entropy_coef=0.1)
        options = {"gradient_checkpointing": checkpointing, "max_tokens_per_microbatch": 20}
        module = Assembled(algorithm, checkpoint, lora, **options)
        shake(module)
        module.zero_grad()
        gradients(experience, algorithm, module.context, module.zero_grad)
        return {name: w.grad for name, w in module.named_parameters() if w.requires_grad and w.grad is not None}

    without, with_checkpointing = found(False), found(True)
    assert_same_gradients(without, with_checkpointing)
    assert largest(without) > 1e-3
