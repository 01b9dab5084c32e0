"""PPO: proximal policy optimization (arXiv:1707.06347) with a value for every token."""

# Shapes: R rows, T completion tokens.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bots_lightning.algorithms.advantages import (
    discounted_returns,
    explained_variance,
    generalized_advantages,
    task_weights,
    whiten,
)
from bots_lightning.algorithms.algorithm import Algorithm
from bots_lightning.algorithms.experience import Experience
from bots_lightning.algorithms.groups import RolloutGroups
from bots_lightning.algorithms.losses import BatchSize, KLEstimator, kl_divergence, value_loss
from bots_lightning.algorithms.meter import Meter
from bots_lightning.algorithms.off_policy import DEFAULT, ImportanceSampling
from bots_lightning.algorithms.step import StepContext
from bots_lightning.options import check_numbers
from bots_lightning.policy import Critic, Policy, SeparateCritic, SharedCritic
from bots_lightning.policy.critic import token_values
from bots_lightning.policy.recording import microbatches
from bots_lightning.rollouts import Rollouts


class PPO(Algorithm):
    """Learns from the advantage of each token over what a critic expected, within a clipped ratio.

    Options have TRL's names. The reward comes with the last token of a completion; the KL penalty, if there is one,
    with every token.

    Args:
        critic: `SharedCritic`, the default under LoRA, or `SeparateCritic`, the default of full finetuning.
        critic_learning_rate: its peak, the policy's if not given.
        num_ppo_epochs: epochs over each batch of rollouts.
        num_mini_batches: optimizer steps of an epoch, each on a minibatch.
        cliprange: clip of the probability ratio.
        cliprange_value: clip of the change of a value, in units of the reward as it is after `whiten_rewards`.
        vf_coef: weight of the critic's loss.
        gamma: discount per token.
        lam: λ of generalized advantage estimation.
        whiten_rewards: divide rewards, penalty included, by their deviation over all tokens of the batch.
        missing_eos_penalty: taken from the reward of completions that were cut at the length limit, for the advantages
            only; None takes nothing.
        kl_coef: weight of the KL penalty against the policy as it was loaded; with 0 there is no reference.
        kl_estimator: see `kl_divergence`. In a reward "k1" alone has the gradient of the divergence.
        entropy_coef: weight of the mean entropy per token, as a bonus.
        mask_truncated_completions: do not learn from completions that were cut at the length limit.
        soft_punish_cache: the last tokens of the length limit, over which a penalty grows to 1; None: no penalty.
        target_kl: ends an iteration's update before the step at which `policy/approxkl_avg` exceeds it; None never.
        importance_sampling: weights for rollouts that another distribution has sampled; None does not correct.

    Raises:
        ValueError: an option is out of bounds, or none of its words.
    """

    critic: Critic

    def __init__(
        self,
        critic: Critic | None = None,
        critic_learning_rate: float | None = None,
        num_ppo_epochs: int = 4,
        num_mini_batches: int = 1,
        cliprange: float = 0.2,
        cliprange_value: float = 0.2,
        vf_coef: float = 0.1,
        gamma: float = 1.0,
        lam: float = 0.95,
        whiten_rewards: bool = False,
        missing_eos_penalty: float | None = None,
        kl_coef: float = 0.0,
        kl_estimator: KLEstimator = "k1",
        entropy_coef: float = 0.0,
        mask_truncated_completions: bool = False,
        soft_punish_cache: int | None = None,
        target_kl: float | None = None,
        importance_sampling: ImportanceSampling | None = DEFAULT,
    ) -> None:
        super().__init__(
            kl_coef,
            kl_estimator,
            entropy_coef,
            mask_truncated_completions,
            soft_punish_cache,
            target_kl,
            importance_sampling,
        )
        check_numbers(0, critic_learning_rate=critic_learning_rate, vf_coef=vf_coef)
        check_numbers(0, cliprange=cliprange, cliprange_value=cliprange_value, missing_eos_penalty=missing_eos_penalty)
        check_numbers(0, high=1, gamma=gamma, lam=lam)
        check_numbers(1, num_ppo_epochs=num_ppo_epochs, num_mini_batches=num_mini_batches)
        self._critic, self.critic_learning_rate = critic, critic_learning_rate
        self.num_epochs, self.num_minibatches = num_ppo_epochs, num_mini_batches
        self.cliprange, self.cliprange_value, self.vf_coef = cliprange, cliprange_value, vf_coef
        self.gamma, self.lam = gamma, lam
        self.whiten_rewards, self.missing_eos_penalty = whiten_rewards, missing_eos_penalty

    # --- setup --------------------------------------------------------------------------------------------------

    def attach(self, policy: Policy, num_generations: int, max_completion_length: int) -> None:
        """Takes the policy, and the critic that suits it if none was given.

        Args:
            policy: with its options.
            num_generations: rollouts per task; one is enough.
            max_completion_length: tokens.
        """
        super().attach(policy, num_generations, max_completion_length)
        self.critic = self._critic or (SharedCritic() if policy.lora else SeparateCritic())

    def build(self, seed: int) -> None:
        """Makes the critic's weights.

        Args:
            seed: of new ones.
        """
        self.critic.build(self.policy.model, self.policy.folder, seed)

    def context_length(self) -> int | None:
        """The most tokens that the critic reads where it has a checkpoint of its own."""
        return self.critic.context()

    def parameter_groups(self, trained: list[nn.Parameter], learning_rate: float) -> list[dict[str, Any]]:
        """One group for the policy, and one for the critic.

        Args:
            trained: all weights that are trained.
            learning_rate: the policy's at its peak.
        """
        critic = self.critic.trained(self.policy.model)
        of_critic = {id(weight) for weight in critic}
        policy = [weight for weight in trained if id(weight) not in of_critic]
        rate = learning_rate if self.critic_learning_rate is None else self.critic_learning_rate
        return [{"params": policy, "lr": learning_rate}, {"params": critic, "lr": rate}]

    # --- one update ---------------------------------------------------------------------------------------------

    def prepare(self, groups: RolloutGroups, context: StepContext) -> tuple[Experience, dict[str, float]]:
        """Log-probabilities, values and advantages of every token of the rollouts.

        Args:
            groups: R rows with rewards; of their grouping only the sizes matter.
            context: of the step; the policy's parameters are gathered.

        Returns:
            the R rows with advantages (R, T), values and returns, and metrics of rewards and values.
        """
        rollouts, rewards = groups.rollouts, self.shaped_rewards(groups, context)
        mask, reference = self.learnable(rollouts, rewards), self.reference_logprobs(rollouts)
        old, sampling = self.behaviour(rollouts, context, record=True)
        assert old is not None
        values = self._values(rollouts)
        scores, penalty = self._scores(rollouts, rewards), self._kl_penalty(old, reference, mask)
        token_rewards = place_at_end(scores, mask) - penalty
        if self.whiten_rewards:
            token_rewards = whiten(token_rewards, mask, shift_mean=False, gather=context.gather_if_several)
        advantages, returns = generalized_advantages(token_rewards, values, mask, self.gamma, self.lam)
        advantages = whiten(advantages, mask, gather=context.gather_if_several)
        weights = task_weights(groups.group_of_row, groups.round_of_row, self.num_generations)
        advantages = advantages * weights.unsqueeze(1)
        seen = discounted_returns(token_rewards, mask, self.gamma)
        rows = map(context.gather_rows, (scores, penalty.sum(dim=1), rollouts.finished))
        metrics = _reward_metrics(*rows) | _value_metrics(*map(context.gather_rows, (values[mask], seen[mask])))
        if reference is not None:
            kl = kl_divergence(old, reference, mask, "k1")
            by_row, by_token = map(context.gather_rows, (kl.sum(dim=1), kl[mask]))
            metrics |= {"objective/kl": float(by_row.mean()), "kl": float(by_token.mean())}
        return Experience(rollouts, mask, advantages, old, reference, values, returns, sampling), metrics

    def _values(self, rollouts: Rollouts) -> Tensor:
        """(R, T) present values."""
        plan = microbatches(rollouts.total_lengths, self.policy.max_tokens_per_microbatch)
        return token_values(self.critic, self.policy.model, rollouts, plan)

    def _scores(self, rollouts: Rollouts, rewards: Tensor) -> Tensor:
        """(R,) rewards less the penalty on cut completions, NaN where there is none."""
        if self.missing_eos_penalty is None:
            return rewards
        return rewards - self.missing_eos_penalty * (~rollouts.finished)

    def _kl_penalty(self, logprobs: Tensor, reference: Tensor | None, mask: Tensor) -> Tensor:
        """(R, T) float, what is taken from the reward of each token."""
        if reference is None:
            return torch.zeros(mask.shape, device=mask.device)
        return self.kl_coef * kl_divergence(logprobs, reference, mask, self.kl_estimator)

    def losses(self, batch: Experience, size: BatchSize, meter: Meter, context: StepContext) -> Iterator[Tensor]:
        """The policy's loss, then the critic's; see `Algorithm.losses`."""
        assert batch.values is not None
        assert batch.returns is not None
        policy_loss = self.policy_loss(batch, size, meter, context, {"loss_type": "dapo", "epsilon": self.cliprange})
        meter.add_loss("policy", policy_loss)
        yield policy_loss
        with self.critic.active(self.policy.model):
            values = context.forward(lambda: self.critic(self.policy.model, batch.rollouts)).float()
            outputs = value_loss(
                values, batch.values, batch.returns, batch.mask, size, cliprange_value=self.cliprange_value
            )
            meter.add("value_clipped", outputs.metrics["clipped"], batch.mask)
            meter.add_loss("value", outputs.loss)
            yield self.vf_coef * outputs.loss

    def metrics(self, meter: Meter) -> dict[str, float]:
        """What the steps of an update did to policy and critic; see `Algorithm.metrics`."""
        return super().metrics(meter) | {
            "policy/clipfrac_avg": meter.mean("clipped_low") + meter.mean("clipped_high"),
            "policy/entropy_avg": meter.mean("entropy"),
            "loss/policy_avg": meter.loss("policy"),
            "loss/value_avg": meter.loss("value"),
            "val/clipfrac_avg": meter.mean("value_clipped"),
            "val/ratio": meter.mean("ratio"),
        }


def _reward_metrics(scores: Tensor, penalty: Tensor, finished: Tensor) -> dict[str, float]:
    """TRL's metrics of rewards, from (R,) scores, KL penalties and ends of the rows of all ranks."""
    score, taken = scores.nanmean(), penalty.mean()
    return {
        "objective/scores": float(score),
        "objective/non_score_reward": -float(taken),
        "objective/rlhf_reward": float(score - taken),
        "val/num_eos_tokens": float(finished.sum()),
    }


def _value_metrics(values: Tensor, returns: Tensor) -> dict[str, float]:
    """TRL's metrics of values, from those of all ranks' tokens and the returns that came of these, each (tokens,)."""
    known = torch.ones_like(values, dtype=torch.bool)
    return {
        "val/mean": float(values.mean()),
        "val/explained_variance": float(explained_variance(values, returns, known)),
    }


def place_at_end(scores: Tensor, mask: Tensor) -> Tensor:
    """Rewards of tokens: each row's score comes with its last sampled token.

    Args:
        scores: (R,) float, NaN where there is none.
        mask: (R, T) bool, the tokens that are learned from.

    Returns:
        (R, T) float; 0 at all other tokens, and in rows without a score or without a token.
    """
    last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(dim=1, keepdim=True)
    rewards = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
    rewards.scatter_(1, last, scores.nan_to_num(nan=0.0).unsqueeze(1))
    return torch.where(mask, rewards, torch.zeros_like(rewards))
