"""Advantages, and a step from completions to gradients, against TRL's."""

# Shapes: R rows, L prompt tokens, T completion tokens.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from trl_helpers import (
    END_TO_END,
    PAIR,
    REWARDS,
    Case,
    as_tensor,
    assert_agree,
    loss_of_trl,
    options_of,
    our_loss,
    set_options,
)

from bots_lightning.algorithms.advantages import group_advantages, soft_overlong_penalty
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import Rollouts, completion_mask

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


def advantages_of_trl(trainer: Any, rewards: list[float | None]) -> Tensor:
    """Those that its rollout and reward code gives, (R,) float32."""
    inputs = [{"prompt": "1+2=", "reward": reward} for reward in rewards]
    return trainer._generate_and_score_completions(inputs)["advantages"]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("rewards", REWARDS.values(), ids=REWARDS)
def test_group_advantages_agree(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rewards: list[float | None], scale: Any
) -> None:
    trainer = trainer_of("GRPO")
    monkeypatch.setattr(trainer, "scale_rewards", scale)
    expected = advantages_of_trl(trainer, rewards)
    torch.testing.assert_close(group_advantages(as_tensor(rewards), PAIR, scale), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rewards", REWARDS.values(), ids=REWARDS)
def test_leave_one_out_advantages_agree(trainer_of: Callable[..., Any], rewards: list[float | None]) -> None:
    expected = advantages_of_trl(trainer_of("RLOO", normalize_advantages=False), rewards)
    actual = group_advantages(as_tensor(rewards), PAIR, "none", adv_estimator="rloo")
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_a_step_from_completions_to_gradients_agrees(
    trainer_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of("GRPO")
    monkeypatch.setattr(trainer, "mask_truncated_completions", True)
    set_options(monkeypatch, trainer, **options_of())
    torch.manual_seed(3)
    prompts = ["1+2="] * 4 + ["7="] * 4
    rewards = REWARDS["graded"]
    inputs = [{"prompt": prompt, "reward": reward} for prompt, reward in zip(prompts, rewards, strict=True)]
    theirs = trainer._generate_and_score_completions(inputs)
    expected, _ = loss_of_trl(trainer, theirs)

    mask, finished = completion_mask(theirs["completion_ids"], [trainer.model.config.eos_token_id])
    assert finished.any()
    assert not finished.all()
    learned = mask & finished[:, None]
    assert torch.equal(learned, theirs["completion_mask"].bool())
    prompt_ids, prompt_mask = theirs["prompt_ids"], theirs["prompt_mask"].bool()
    rollouts = Rollouts(prompt_ids, prompt_mask, theirs["completion_ids"], mask, finished, policy_version=0)
    with torch.no_grad():
        present, _ = completion_logprobs(trainer.model, rollouts)
    case = Case(rollouts, group_advantages(as_tensor(rewards), PAIR), present, present, learned)
    assert_agree(our_loss(trainer, case, **options_of())[0].loss, expected, trainer.model, END_TO_END)


@pytest.mark.parametrize(("limit", "cache"), [(100, 20), (30, 30), (7, 1), (50, 0)])
def test_soft_overlong_penalties_agree(trl: Any, limit: int, cache: int) -> None:
    from trl.rewards import get_soft_overlong_punishment

    lengths = torch.arange(0, limit + 10)
    expected = get_soft_overlong_punishment(limit, cache)([[1] * length for length in lengths.tolist()])
    torch.testing.assert_close(soft_overlong_penalty(lengths, limit, cache), torch.tensor(expected), rtol=0, atol=1e-7)
