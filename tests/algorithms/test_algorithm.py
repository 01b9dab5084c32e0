"""What algorithms share: the tokens that are learned from, penalties, sizes over ranks, what ratios are taken to."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from algorithm_helpers import Assembled, groups_of, step_context

from bots_lightning.algorithms import GRPO, PPO, Experience, ImportanceSampling
from bots_lightning.algorithms.losses import BatchSize
from bots_lightning.policy import Policy
from bots_lightning.rollouts import Rollouts

NAN = math.nan
MASK = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool)


@pytest.fixture
def rollouts(make_rollouts: Callable[..., Rollouts]) -> Rollouts:
    """The second and the fourth row were cut at the limit of 6 tokens."""
    return make_rollouts([2, 6, 3, 6], [3, 3, 2, 2])


def test_tokens_are_learned_from_where_there_is_a_reward_and_an_end(rollouts: Rollouts) -> None:
    rewards = torch.tensor([1.0, 0.0, NAN, 0.5])
    assert GRPO().learnable(rollouts, rewards).sum(dim=1).tolist() == [2, 6, 0, 6]
    masking = GRPO(mask_truncated_completions=True)
    assert masking.learnable(rollouts, rewards).sum(dim=1).tolist() == [2, 0, 0, 0]
    holes = replace(rollouts, action_mask=rollouts.completion_mask & (torch.arange(6) != 1))
    assert GRPO().learnable(holes, rewards).sum(dim=1).tolist() == [1, 5, 0, 5]
    assert masking.learnable(holes, rewards).sum(dim=1).tolist() == [1, 0, 0, 0]


def test_rewards_are_shaped_by_length_if_so_set(rollouts: Rollouts) -> None:
    groups = groups_of(rollouts, [1.0, 0.0, NAN, 0.5], [1, 3])
    assert GRPO().shaped_rewards(groups, step_context()) is groups.rewards
    shaped = GRPO(soft_punish_cache=4).shaped_rewards(groups, step_context())
    expected = torch.tensor([1.0, -1.0, NAN, -0.5])  # lengths of 2, 6 and 6; from 2 on, a quarter for each token
    torch.testing.assert_close(shaped, expected, equal_nan=True)
    assert groups.rewards[1] == 0


def test_a_penalty_on_more_tokens_than_there_are_is_refused(checkpoint: str) -> None:
    with pytest.raises(ValueError, match=r"soft_punish_cache=7; expected between 1 and max_completion_length=6 tokens"):
        PPO(soft_punish_cache=7).attach(Policy(checkpoint), num_generations=4, max_completion_length=6)


def test_steps_of_an_iteration_are_epochs_times_minibatches() -> None:
    assert GRPO().steps_per_iteration == 1
    assert GRPO(num_iterations=3, steps_per_generation=4).steps_per_iteration == 12
    assert PPO(num_ppo_epochs=2, num_mini_batches=5).steps_per_iteration == 10


def test_rows_and_tokens_are_means_over_ranks_except_the_tokens_of_bnpo() -> None:
    def all_gather(sizes: torch.Tensor) -> torch.Tensor:
        return torch.stack([sizes, torch.tensor([4, 9])])

    context = step_context(world_size=2, all_gather=all_gather)
    for algorithm in (GRPO(loss_type="dapo"), PPO()):
        assert algorithm.size(MASK, step_context()) == BatchSize(2, 2.0, 6)
        assert algorithm.size(MASK, context) == BatchSize((2 + 4) / 2, (2 + 9) / 2, 6)
    assert GRPO(loss_type="bnpo").size(MASK, context) == BatchSize(3, 2.0, 6)


def test_rows_without_tokens_are_idle_and_those_without_advantage_if_nothing_else_acts_on_them(
    rollouts: Rollouts,
) -> None:
    mask = rollouts.completion_mask & torch.tensor([[True], [False], [True], [True]])
    batch = Experience(rollouts, mask, torch.tensor([0.0, 1.0, 2.0, 0.0]))
    assert GRPO().idle(batch).tolist() == [True, True, False, True]
    for algorithm in (GRPO(kl_coef=0.1), GRPO(entropy_coef=0.1), PPO()):
        assert algorithm.idle(batch).tolist() == [False, True, False, False]


# --- what ratios are taken to ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", [ImportanceSampling(), None], ids=["corrected", "bypass"])
@pytest.mark.parametrize("several", [False, True], ids=["one step", "several steps"])
def test_all_ranks_have_sampling_log_probabilities_or_none(
    checkpoint: str, rollouts: Rollouts, correction: ImportanceSampling | None, several: bool
) -> None:
    """The other rank has some: here there are none, but the metrics of importance sampling are the same ones."""
    algorithm = GRPO(importance_sampling=correction, num_iterations=2 if several else 1)
    module = Assembled(algorithm, checkpoint)
    alone, beside = step_context(), step_context(world_size=2, all_gather=lambda own: torch.stack([own, ~own]))
    old, sampling = algorithm.behaviour(rollouts, alone)
    assert sampling is None
    assert (old is not None) == several
    old, sampling = algorithm.behaviour(rollouts, beside)
    if correction is None:
        assert sampling is None
        assert old is not None
        assert torch.equal(old.nan_to_num(9.0), module.policy.logprobs(rollouts).nan_to_num(9.0))
    else:
        assert sampling is not None
        assert sampling.isnan().all()
        assert sampling.shape == rollouts.completion_ids.shape
        assert (old is not None) == several


def test_without_a_penalty_there_is_no_reference_to_compare_with(checkpoint: str, rollouts: Rollouts) -> None:
    assert Assembled(GRPO(), checkpoint).algorithm.reference_logprobs(rollouts) is None
    module = Assembled(GRPO(kl_coef=0.1), checkpoint)
    reference = module.algorithm.reference_logprobs(rollouts)
    assert reference is not None
    mask = rollouts.completion_mask
    assert torch.equal(reference[mask], module.policy.logprobs(rollouts)[mask])  # fresh adapters are 0
