"""PPO: what a token is worth by hand, how many steps are taken over which rows, and that it learns."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_helpers import Assembled, groups_of
from transformers import AutoModelForCausalLM

from bots_lightning.algorithms import GRPO, PPO, Experience, RolloutGroups, StepContext
from bots_lightning.algorithms.ppo import place_at_end
from bots_lightning.policy import LoRA
from bots_lightning.rollouts import Rollouts

NAN = math.nan
SMALL = LoRA(r=4, alpha=8)


def test_a_score_comes_with_the_last_token() -> None:
    mask = torch.arange(3) < torch.tensor([2, 3, 1, 0, 3]).unsqueeze(1)
    mask[4] = False  # not learned from
    rewards = place_at_end(torch.tensor([0.5, -1.0, NAN, 2.0, 4.0]), mask)
    assert rewards.tolist() == [[0, 0.5, 0], [0, 0, -1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_a_score_comes_with_the_last_token_that_the_policy_sampled() -> None:
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    scores = torch.tensor([0.5, -1.0, 2.0, NAN], dtype=torch.float64)
    rewards = place_at_end(scores, mask)
    assert rewards.dtype == torch.float64
    assert rewards.tolist() == [[0, 0, 0.5, 0], [0, 0, 0, -1], [2, 0, 0, 0], [0, 0, 0, 0]]


# --- advantages by hand ---------------------------------------------------------------------------------------------

LENGTHS, PROMPTS, REWARDS = [2, 6, 3, 6], [2, 4, 3, 1], [1.0, NAN, 0.5, 0.25]
VALUE, GAMMA, LAM, KL_COEF = 0.3, 0.9, 0.8, 0.2


def logprobs_of(model: Any, rollouts: Rollouts, row: int) -> list[float]:
    prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]]
    completion = rollouts.completion_ids[row][rollouts.completion_mask[row]]
    with torch.no_grad():
        logits = model(input_ids=torch.cat([prompt, completion]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, completion.unsqueeze(1)).squeeze(1).tolist()


def whitened(rows: list[list[float]], keep_mean: bool = False) -> list[list[float]]:
    flat = [x for row in rows for x in row]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((x - mean) ** 2 for x in flat) / (len(flat) - 1) + 1e-8)
    return [[(x - mean) / std + (mean if keep_mean else 0) for x in row] for row in rows]


@pytest.mark.parametrize("missing_eos_penalty", [None, 0.5])
@pytest.mark.parametrize("whiten_rewards", [False, True])
@pytest.mark.parametrize("kl_estimator", ["k1", "k3"])
@pytest.mark.parametrize("max_tokens", [None, 12])
def test_advantages_and_returns_are_those_of_a_loop(
    shake: Any,
    make_rollouts: Any,
    checkpoint: str,
    missing_eos_penalty: float | None,
    whiten_rewards: bool,
    kl_estimator: str,
    max_tokens: int | None,
) -> None:
    options = {"missing_eos_penalty": missing_eos_penalty, "whiten_rewards": whiten_rewards, "gamma": GAMMA, "lam": LAM}
    algorithm = PPO(kl_coef=KL_COEF, kl_estimator=kl_estimator, **options)  # type: ignore[arg-type]
    module = Assembled(algorithm, checkpoint, num_generations=2, max_tokens_per_microbatch=max_tokens)
    shake(module)
    torch.nn.init.zeros_(algorithm.critic.head.weight)
    torch.nn.init.constant_(algorithm.critic.head.bias, VALUE)
    rollouts = make_rollouts(LENGTHS, PROMPTS)
    experience, metrics = module.prepare(groups_of(rollouts, REWARDS, [2, 2]))

    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    rows, rewards, penalties, scores, kl = [0, 2, 3], [], [], [], []
    for row in rows:
        mine, reference = logprobs_of(module.policy.model, rollouts, row), logprobs_of(base, rollouts, row)
        difference = [p - q for p, q in zip(mine, reference, strict=True)]
        kl.append(difference)
        estimate = difference if kl_estimator == "k1" else [math.exp(-d) - 1 + d for d in difference]
        penalties.append([KL_COEF * d for d in estimate])
        cut = missing_eos_penalty is not None and row == 3
        scores.append(REWARDS[row] - (0.5 if cut else 0.0))
        token_rewards = [-penalty for penalty in penalties[-1]]
        token_rewards[-1] += scores[-1]
        rewards.append(token_rewards)
    assert max(abs(d) for row in kl for d in row) > 0.05
    if whiten_rewards:
        rewards = whitened(rewards, keep_mean=True)
    advantages, returns = [], []
    for row in rewards:
        after, later, computed = 0.0, 0.0, []
        for reward in reversed(row):
            later = reward + GAMMA * after - VALUE + GAMMA * LAM * later
            after = VALUE
            computed.append(later)
        advantages.append(computed[::-1])
        returns.append([advantage + VALUE for advantage in advantages[-1]])
    advantages = whitened(advantages)

    assert experience.mask.sum(dim=1).tolist() == [2, 0, 3, 6]
    for name, expected in (("advantages", advantages), ("returns", returns)):
        computed = getattr(experience, name)
        for row, values in zip(rows, expected, strict=True):
            assert computed[row, : LENGTHS[row]].tolist() == pytest.approx(values, abs=2e-4), name
        assert not computed[~experience.mask].any()
    # Means per row are over all four of them.
    assert metrics["objective/scores"] == pytest.approx(sum(scores) / 3)
    assert metrics["objective/non_score_reward"] == pytest.approx(-sum(map(sum, penalties)) / 4, abs=1e-5)
    assert metrics["objective/rlhf_reward"] == pytest.approx(sum(scores) / 3 - sum(map(sum, penalties)) / 4, abs=1e-5)
    assert metrics["objective/kl"] == pytest.approx(sum(map(sum, kl)) / 4, abs=1e-5)
    assert metrics["kl"] == pytest.approx(sum(map(sum, kl)) / (2 + 3 + 6), abs=1e-5)
    assert metrics["val/mean"] == pytest.approx(VALUE)
    assert metrics["val/num_eos_tokens"] == 2
    assert metrics["val/explained_variance"] == pytest.approx(0, abs=1e-6)  # that of a constant


def test_explained_variance_is_of_the_rewards_that_came(checkpoint: str, shake: Any, make_rollouts: Any) -> None:
    module = Assembled(PPO(gamma=GAMMA, lam=LAM), checkpoint)
    shake(module)
    rollouts = make_rollouts(LENGTHS, PROMPTS)
    rewards = [1.0, 0.0, 0.5, 0.25]
    experience, metrics = module.prepare(groups_of(rollouts, rewards, [2, 2]))
    seen, predicted = [], []
    for row, length in enumerate(LENGTHS):
        seen += [rewards[row] * GAMMA ** (length - 1 - t) for t in range(length)]
        predicted += experience.values[row, :length].tolist()
    errors = np.array(seen) - np.array(predicted)
    assert metrics["val/explained_variance"] == pytest.approx(1 - errors.var() / np.var(seen), abs=1e-5)
    assert abs(metrics["val/explained_variance"]) > 1e-3


def test_with_lambda_one_and_no_critic_it_is_reinforce_with_whitened_returns(
    checkpoint: str, make_rollouts: Any
) -> None:
    module = Assembled(PPO(lam=1.0), checkpoint, num_generations=2)
    rollouts = make_rollouts([2, 1, 3, 3], PROMPTS)
    experience, _ = module.prepare(groups_of(rollouts, [1.0, 0.0, 0.0, 1.0], [2, 2]))
    expected = whitened([[1.0] * 2, [0.0], [0.0] * 3, [1.0] * 3])
    for row, values in enumerate(expected):
        assert experience.advantages[row, : len(values)].tolist() == pytest.approx(values, abs=1e-6)
    assert experience.returns.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]]


# --- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (2, 3), (3, 16)])
def test_it_takes_epochs_times_minibatches_steps_and_uses_every_row_once_per_epoch(
    build: Any, fit: Any, epochs: int, minibatches: int
) -> None:
    module = build(PPO, num_ppo_epochs=epochs, num_mini_batches=minibatches)
    prepare = module.algorithm.prepare

    def named_rows(groups: RolloutGroups, context: StepContext) -> Any:
        experience, metrics = prepare(groups, context)
        names = torch.arange(len(experience), dtype=torch.float32).unsqueeze(1).expand(-1, 6)
        return replace(experience, ref_logprobs=names), metrics

    module.algorithm.prepare = named_rows
    seen, step = [], module.updater._step

    def named_step(batch: Experience, loss: float, context: StepContext) -> float:
        assert batch.ref_logprobs is not None
        seen.append(batch.ref_logprobs[:, 0].int().tolist())
        return step(batch, loss, context)

    module.updater._step = named_step
    run = fit(module, 2)
    assert run.history["optimizer_steps"] == [epochs * minibatches] * 2
    assert run.trainer.global_step == 2 * epochs * minibatches
    assert len(seen) == 2 * epochs * minibatches
    every = [list(chain(*seen[start : start + minibatches])) for start in range(0, len(seen), minibatches)]
    assert all(sorted(rows) == list(range(16)) for rows in every)
    shuffled = {tuple(rows) for rows in every}
    assert len(shuffled) == (1 if minibatches == 1 else len(every))


def test_a_target_ends_the_update_before_the_step_that_exceeds_it(build: Any, fit: Any) -> None:
    options = {"num_ppo_epochs": 4, "lr_scheduler_type": "linear", "learning_rate": 0.03}
    stopped = build(PPO, target_kl=1e-9, **options)
    history = fit(stopped, 3).history
    undisturbed = fit(build(PPO, **options), 3).history
    assert history["optimizer_steps"] == [1] * 3  # the first has moved nothing yet
    assert undisturbed["optimizer_steps"] == [4] * 3
    assert history["learning_rate"] == undisturbed["learning_rate"]
    assert history["learning_rate"] == pytest.approx([0.03 * (1 - step / 12) for step in (4, 8, 12)])
    assert history["policy/approxkl_avg"] == pytest.approx([0] * 3, abs=1e-10)
    assert max(undisturbed["policy/approxkl_avg"]) > 1e-4
    options["lr_scheduler_type"] = "constant"
    one_epoch = build(PPO, **options | {"num_ppo_epochs": 1})
    four = build(PPO, target_kl=1e-9, **options)
    weights = [fit(module, 2).history.weights[-1] for module in (one_epoch, four)]
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())


def test_a_target_that_is_never_exceeded_changes_nothing(build: Any, fit: Any) -> None:
    weights = [fit(build(PPO, target_kl=target), 2).history.weights[-1] for target in (None, 1e9)]
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())


def test_one_rollout_per_task_is_enough_for_a_critic_and_not_for_a_group(build: Any, fit: Any) -> None:
    module = build(PPO, num_generations=1)
    history = fit(module, 3, batch_size=24).history  # among so many, some completions are rewarded in every step
    assert module.progress.rollouts == 3 * 24
    assert all(map(math.isfinite, history["loss"]))
    assert min(history["grad_norm"]) > 0
    with pytest.raises(ValueError, match="num_generations=1; a group needs at least 2 rollouts"):
        fit(build(GRPO, num_generations=1), 1)


def test_losses_of_policy_and_critic_are_logged_as_means_of_steps(build: Any, fit: Any) -> None:
    module = build(PPO, num_ppo_epochs=2, num_mini_batches=2, vf_coef=0.5, max_tokens_per_microbatch=100)
    step, losses = module.updater._step, []
    module.updater._step = lambda batch, loss, context: losses.append(loss) or step(batch, loss, context)
    logged = fit(module, 1).history.logged[0]
    assert len(losses) == 4
    assert logged["loss"] == pytest.approx(sum(losses) / 4, abs=1e-6)
    assert logged["loss/policy_avg"] + 0.5 * logged["loss/value_avg"] == pytest.approx(logged["loss"], abs=1e-6)
    assert logged["loss/value_avg"] > 0
    assert logged["policy/clipfrac_avg"] == pytest.approx(logged["clip_ratio/region_mean"])


# --- learning -------------------------------------------------------------------------------------------------------


lora_and_full = pytest.mark.parametrize("lora", [SMALL, None], ids=["lora", "full"])


@lora_and_full
def test_the_policy_learns_what_is_rewarded(build: Any, fit: Any, lora: LoRA | None) -> None:
    rates = {"learning_rate": 1e-2 if lora else 3e-3, "critic_learning_rate": 1e-2}
    module = build(PPO, lora=lora, num_generations=8, num_ppo_epochs=2, **rates)
    reward = fit(module, 15).history["reward"]
    assert np.mean(reward[-4:]) > np.mean(reward[:4]) + 0.3


@lora_and_full
def test_the_critic_learns_to_predict_what_is_rewarded(build: Any, fit: Any, lora: LoRA | None) -> None:
    def maths(completions: list[str], group: list[str], **_: Any) -> list[float]:
        return [float(name == "maths") for name in group]

    rates = {"learning_rate": 0.0, "critic_learning_rate": 2e-2 if lora else 3e-3}
    module = build(PPO, reward_funcs=[maths], lora=lora, vf_coef=1.0, **rates)
    explained = fit(module, 15, batch_size=8).history["val/explained_variance"]
    assert explained[0] == pytest.approx(0, abs=1e-6)
    assert np.mean(explained[-4:]) > 0.8
