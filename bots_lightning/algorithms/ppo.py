"""PPO: proximal policy optimization (arXiv:1707.06347) with a value for every token."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bots_lightning.algorithms.advantages import (
    discounted_returns,
    explained_variance,
    generalized_advantages,
    whiten,
)
from bots_lightning.algorithms.experience import Experience
from bots_lightning.algorithms.losses import BatchSize, KLEstimator, kl_divergence, value_loss
from bots_lightning.algorithms.meter import Meter
from bots_lightning.options import check_numbers
from bots_lightning.policy.critic import Critic, SeparateCritic, SharedCritic, token_values
from bots_lightning.policy.loading import checkpoint_folder
from bots_lightning.policy.recording import microbatches
from bots_lightning.rollouts import Rollouts, derive_seed
from bots_lightning.training.old_module import CRITIC
from bots_lightning.training.old_policy_gradient import PolicyGradientModule


class PPO(PolicyGradientModule):
    """Learns from the advantage of each token over what a critic expected, within a clipped ratio.

    Options have TRL's names. The reward comes with the last token of a completion; the KL penalty, if there is one,
    with every token. All arguments of `PolicyGradientModule`, `OnlineModule` and `PolicyModule` apply.

    Args:
        critic: `SharedCritic`, the default under LoRA, or `SeparateCritic`, the default of full finetuning.
        critic_learning_rate: its peak, `learning_rate` if not given.
        num_ppo_epochs: passes over each batch of rollouts.
        num_mini_batches: optimizer steps of a pass, each on a part of the batch.
        cliprange: clip of the probability ratio.
        cliprange_value: clip of the change of a value, in units of the reward as it is after `whiten_rewards`.
        vf_coef: weight of the critic's loss.
        gamma: discount per token.
        lam: λ of generalized advantage estimation.
        whiten_rewards: divide rewards, penalty included, by their deviation over all tokens of the batch.
        missing_eos_penalty: taken from the reward of completions that were cut at the length limit, for the advantages
            only; None takes nothing.
        kl_estimator: see `kl_divergence`. In a reward "k1" alone has the gradient of the divergence.
        **kwargs: see `PolicyGradientModule`.
    """

    def __init__(
        self,
        *args: Any,
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
        kl_estimator: KLEstimator = "k1",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, kl_estimator=kl_estimator, **kwargs)
        check_numbers(0, critic_learning_rate=critic_learning_rate, vf_coef=vf_coef)
        check_numbers(0, cliprange=cliprange, cliprange_value=cliprange_value, missing_eos_penalty=missing_eos_penalty)
        check_numbers(0, high=1, gamma=gamma, lam=lam)
        self.critic = critic or (SharedCritic() if self.lora else SeparateCritic())
        self.critic_learning_rate = critic_learning_rate
        self.num_passes, self.num_parts = num_ppo_epochs, num_mini_batches
        self.cliprange, self.cliprange_value, self.vf_coef = cliprange, cliprange_value, vf_coef
        self.gamma, self.lam = gamma, lam
        self.whiten_rewards, self.missing_eos_penalty = whiten_rewards, missing_eos_penalty

    def configure_model(self) -> None:
        """Loads the policy and builds its critic."""
        if self.policy is not None:
            return
        super().configure_model()
        assert self.policy is not None
        self.critic.build(self.policy, checkpoint_folder(self.pretrained), derive_seed(self.seed, CRITIC))

    def context(self) -> int | None:
        """Also of a critic with a checkpoint of its own."""
        of_policy, of_critic = super().context(), self.critic.context()
        return of_policy if of_critic is None else min(of_critic, of_policy or of_critic)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Policy, and critic."""
        assert self.policy is not None
        critic = self.critic.trained(self.policy)
        of_critic = {id(weight) for weight in critic}
        policy = [weight for weight in self.parameters() if weight.requires_grad and id(weight) not in of_critic]
        rate = self.learning_rate if self.critic_learning_rate is None else self.critic_learning_rate
        return [{"params": policy, "lr": self.learning_rate}, {"params": critic, "lr": rate}]

    def prepare(self, rollouts: Rollouts, rewards: Tensor) -> tuple[Experience, dict[str, float]]:
        """Log-probabilities, values and advantages of every token of the rollouts."""
        assert self.policy is not None
        mask, reference = self.learnable(rollouts, rewards), self.reference_logprobs(rollouts)
        old, sampling = self.behaviour(rollouts, record=True)
        assert old is not None
        plan = microbatches(rollouts.total_lengths, self.max_tokens_per_microbatch)
        values = token_values(self.critic, self.policy, rollouts, plan)
        scores, penalty = self._scores(rollouts, rewards), self._kl_penalty(old, reference, mask)
        token_rewards = place_at_end(scores, rollouts.lengths, mask) - penalty
        if self.whiten_rewards:
            token_rewards = whiten(token_rewards, mask, shift_mean=False, gather=self.gather)
        advantages, returns = generalized_advantages(token_rewards, values, mask, self.gamma, self.lam)
        advantages = whiten(advantages, mask, gather=self.gather)
        seen = discounted_returns(token_rewards, mask, self.gamma)
        metrics = {
            "objective/scores": float(scores.nanmean()),
            "objective/non_score_reward": -float(penalty.sum(dim=1).mean()),
            "objective/rlhf_reward": float(scores.nanmean() - penalty.sum(dim=1).mean()),
            "val/mean": float(values[mask].mean()),
            "val/explained_variance": float(explained_variance(values, seen, mask)),
            "val/num_eos_tokens": float(rollouts.finished.sum()),
        }
        if reference is not None:
            kl = kl_divergence(old, reference, mask, "k1")
            metrics |= {"objective/kl": float(kl.sum(dim=1).mean()), "kl": float(kl[mask].mean())}
        return Experience(rollouts, mask, advantages, old, reference, values, returns, sampling), metrics

    def _scores(self, rollouts: Rollouts, rewards: Tensor) -> Tensor:
        """(R,) float, NaN where there is none."""
        if self.missing_eos_penalty is None:
            return rewards.flatten()
        return rewards.flatten() - self.missing_eos_penalty * (~rollouts.finished)

    def _kl_penalty(self, logprobs: Tensor, reference: Tensor | None, mask: Tensor) -> Tensor:
        """(R, T) float, what is taken from the reward of each token."""
        if reference is None:
            return torch.zeros(mask.shape, device=mask.device)
        return self.kl_coef * kl_divergence(logprobs, reference, mask, self.kl_estimator)

    def losses(self, part: Experience, size: BatchSize, meter: Meter) -> Iterator[Tensor]:
        """The policy's, then the critic's."""
        assert self.policy is not None
        assert part.values is not None
        assert part.returns is not None
        policy_loss = self.policy_loss(part, size, meter, loss_type="dapo", epsilon=self.cliprange)
        meter.add_loss("policy", policy_loss)
        yield policy_loss
        with self.critic.active(self.policy):
            critic, policy = self.critic, self.policy
            values = self.through_strategy(lambda: critic(policy, part.rollouts)).float()
            outputs = value_loss(
                values, part.values, part.returns, part.mask, size, cliprange_value=self.cliprange_value
            )
            meter.add("value_clipped", outputs.figures["clipped"], part.mask)
            meter.add_loss("value", outputs.loss)
            yield self.vf_coef * outputs.loss

    def metrics(self, meter: Meter) -> dict[str, float]:
        """Also those of the critic."""
        return super().metrics(meter) | {
            "policy/clipfrac_avg": meter.mean("clipped_low") + meter.mean("clipped_high"),
            "policy/entropy_avg": meter.mean("entropy"),
            "loss/policy_avg": meter.loss("policy"),
            "loss/value_avg": meter.loss("value"),
            "val/clipfrac_avg": meter.mean("value_clipped"),
            "val/ratio": meter.mean("ratio"),
        }


def place_at_end(scores: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    """(R, T) rewards of tokens: each row's score at its last token, 0 elsewhere and in rows without a score.

    Args:
        scores: (R,) float, NaN where there is none.
        lengths: (R,) tokens of each row.
        mask: (R, T) bool.
    """
    last = (lengths - 1).clamp(min=0).unsqueeze(1)
    rewards = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device)
    rewards.scatter_(1, last, scores.nan_to_num(nan=0.0).unsqueeze(1))
    return torch.where(mask, rewards, torch.zeros_like(rewards))
