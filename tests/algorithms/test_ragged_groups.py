"""GRPO and PPO on groups of 2, 3, 5 and 16 rows: the same as a loop over groups, each of them by itself."""

# Shapes: K groups, n_k rows in group k, R = Σ n_k rows, T completion tokens.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from algorithm_helpers import Assembled, assert_same_gradients, groups_of, largest
from torch import Tensor, nn

from bots_lightning.algorithms import GRPO, PPO, Experience, RolloutGroups
from bots_lightning.algorithms.meter import Meter
from bots_lightning.rollouts import Rollouts

COUNTS = [2, 3, 5, 16]
G = 4  # as `Assembled` has it
LENGTHS = [1 + 5 * row % 6 for row in range(sum(COUNTS))]
LOSS_TYPES = ["grpo", "dr_grpo", "dapo", "bnpo"]


@pytest.fixture
def groups(make_rollouts: Callable[..., Rollouts]) -> RolloutGroups:
    """Rewards that differ within every group; one row has none."""
    rollouts = make_rollouts(LENGTHS, [1 + row // 3 % 5 for row in range(sum(COUNTS))])
    rewards = torch.rand(sum(COUNTS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards[7] = math.nan
    return groups_of(rollouts, rewards, COUNTS)


def logprobs_of_row(model: nn.Module, rollouts: Rollouts, row: int) -> Tensor:
    """(tokens,) of one row alone, without padding."""
    prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]]
    completion = rollouts.completion_ids[row][rollouts.completion_mask[row]]
    logits = model(input_ids=torch.cat([prompt, completion]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, completion.unsqueeze(1)).squeeze(1)


def surrogate(ratio: Tensor, advantage: float) -> Tensor:
    return torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)


def loss_of_a_loop(module: Assembled, groups: RolloutGroups, old: Tensor, loss_type: str) -> Tensor:
    """GRPO's loss by its definition, one group after the other, one row after the other."""
    sums, lengths, start = [], [], 0
    for count in COUNTS:
        rewards = groups.rewards[start : start + count].tolist()
        known = torch.tensor([reward for reward in rewards if not math.isnan(reward)], dtype=torch.float64)
        for row, reward in enumerate(rewards, start):
            lengths.append(0 if math.isnan(reward) else LENGTHS[row])
            sums.append(torch.zeros((), dtype=torch.float64))
            if lengths[-1]:
                advantage = (reward - float(known.mean())) / (float(known.std()) + 1e-4) * G / count
                ratio = (logprobs_of_row(module.policy.model, groups.rollouts, row) - old[row, : lengths[-1]]).exp()
                sums[-1] = -surrogate(ratio, advantage).sum()
        start += count
    if loss_type == "grpo":
        return torch.stack([total / max(1, length) for total, length in zip(sums, lengths, strict=True)]).mean()
    return torch.stack(sums).sum() / (len(sums) * 6 if loss_type == "dr_grpo" else sum(lengths))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_gradient_of_grpo_are_those_of_a_loop(
    checkpoint: str, shake: Any, groups: RolloutGroups, loss_type: Any
) -> None:
    module = Assembled(GRPO(loss_type=loss_type, num_iterations=2), checkpoint)
    shake(module)
    experience, _ = module.prepare(groups)
    assert experience.old_logprobs is not None
    shake(module, std=0.02, seed=1)  # so that ratios are not 1
    meter = Meter()
    loss, gradients = module.gradients(experience, meter)
    assert meter.mean("clipped_low") + meter.mean("clipped_high") > 0
    expected = loss_of_a_loop(module, groups, experience.old_logprobs, loss_type)
    module.zero_grad()
    expected.backward()
    by_loop = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    assert largest(gradients) > 1e-3
    assert_same_gradients(gradients, by_loop, atol=1e-6)


def rows_of_group(experience: Experience, groups: RolloutGroups, group: int) -> Experience:
    return experience.rows((groups.group_of_row == group).nonzero().flatten())


@pytest.mark.parametrize("adv_estimator", ["grpo", "rloo"])
@pytest.mark.parametrize("scale_rewards", ["group", "none"])
def test_each_group_is_prepared_as_it_is_by_itself(
    checkpoint: str, groups: RolloutGroups, scale_rewards: Any, adv_estimator: Any
) -> None:
    algorithm = GRPO(scale_rewards=scale_rewards, adv_estimator=adv_estimator, num_iterations=2)
    module = Assembled(algorithm, checkpoint)
    together, _ = module.prepare(groups)
    for group, count in enumerate(COUNTS):
        alone, _ = module.prepare(groups.take(torch.tensor([group])))
        assert len(alone) == count
        own = rows_of_group(together, groups, group)
        assert torch.equal(own.mask, alone.mask)
        torch.testing.assert_close(own.advantages, alone.advantages, rtol=0, atol=1e-12)
        assert own.old_logprobs is not None
        assert alone.old_logprobs is not None
        mask = alone.mask
        torch.testing.assert_close(own.old_logprobs[mask], alone.old_logprobs[mask], rtol=0, atol=1e-5)  # float32


@pytest.mark.parametrize(
    "algorithm", [*(lambda t=t: GRPO(loss_type=t) for t in LOSS_TYPES), PPO], ids=[*LOSS_TYPES, "ppo"]
)
def test_losses_and_gradients_of_groups_add_up(
    checkpoint: str, shake: Any, groups: RolloutGroups, algorithm: Callable[[], Any]
) -> None:
    module = Assembled(algorithm(), checkpoint)
    shake(module)
    experience, _ = module.prepare(groups)
    loss, gradients = module.gradients(experience)
    size, total = module.algorithm.size(experience.mask, module.context), 0.0
    module.zero_grad()
    for group in range(len(COUNTS)):
        for share in module.algorithm.losses(rows_of_group(experience, groups, group), size, Meter(), module.context):
            share.backward()
            total += share.item()
    added = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    assert total == pytest.approx(loss, abs=1e-6)
    assert largest(gradients) > 1e-3
    assert_same_gradients(gradients, added, atol=1e-6)


def test_of_groups_only_the_sizes_matter_to_ppo(checkpoint: str, shake: Any, groups: RolloutGroups) -> None:
    module = Assembled(PPO(whiten_rewards=True, kl_coef=0.1), checkpoint)
    shake(module)
    ragged, metrics = module.prepare(groups)
    for counts in ([1] * sum(COUNTS), [sum(COUNTS)], [13, 13]):
        other, others_metrics = module.prepare(groups_of(groups.rollouts, groups.rewards, counts))
        assert others_metrics == metrics
        for name in ("mask", "returns", "values", "old_logprobs"):
            assert torch.equal(getattr(other, name).nan_to_num(9.0), getattr(ragged, name).nan_to_num(9.0)), name
        plain = [
            experience.advantages * torch.tensor(sizes).repeat_interleave(torch.tensor(sizes)).unsqueeze(1)
            for experience, sizes in ((other, counts), (ragged, COUNTS))
        ]
        torch.testing.assert_close(*plain, rtol=1e-6, atol=1e-6)


def test_a_group_without_a_row_to_compare_with_has_no_advantage(
    checkpoint: str, make_rollouts: Callable[..., Rollouts]
) -> None:
    module = Assembled(GRPO(), checkpoint)
    groups = groups_of(make_rollouts([2, 3, 4], [2, 2, 2]), [1.0, 0.0, 1.0], [1, 2])
    experience, _ = module.prepare(groups)
    assert experience.advantages[0] == 0
    assert module.algorithm.idle(experience).tolist() == [True, False, False]
