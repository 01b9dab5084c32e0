"""GRPO: group-relative policy optimization (arXiv:2402.03300), and its family."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from bots_lightning.algorithms.advantages import Estimator, Scale, group_advantages
from bots_lightning.algorithms.experience import Experience
from bots_lightning.algorithms.losses import BatchSize, Level, LossType
from bots_lightning.algorithms.meter import Meter
from bots_lightning.options import check_numbers
from bots_lightning.rollouts import Rollouts
from bots_lightning.training.old_policy_gradient import PolicyGradientModule


class GRPO(PolicyGradientModule):
    """Raises the probability of completions that did better than their group, within a clipped ratio.

    Options have TRL's names, but `kl_coef` for the weight of the KL penalty and verl's `adv_estimator`. All arguments
    of `PolicyGradientModule`, `OnlineModule` and `PolicyModule` apply.

    Args:
        loss_type: how the losses of tokens are averaged: "dapo", "dr_grpo", "bnpo" or "grpo"; see `aggregate`.
        epsilon: lower clip of the probability ratio.
        epsilon_high: upper clip, `epsilon` if not given.
        delta: bounds the ratio also where the advantage is negative; None does not.
        importance_sampling_level: "token", or "sequence": one ratio per completion (GSPO).
        adv_estimator: the baseline: "grpo" the mean of the group, "rloo" the mean of the others in it.
        scale_rewards: divide advantages by the deviation of the "group", of the "batch", or by "none".
        num_iterations: passes over each batch of rollouts.
        steps_per_generation: optimizer steps of a pass, each on a part of the batch.
        use_bias_correction_kl: see `grpo_loss`.
        **kwargs: see `PolicyGradientModule`.
    """

    def __init__(
        self,
        *args: Any,
        loss_type: LossType = "dapo",
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        delta: float | None = None,
        importance_sampling_level: Level = "token",
        adv_estimator: Estimator = "grpo",
        scale_rewards: Scale = "group",
        num_iterations: int = 1,
        steps_per_generation: int = 1,
        use_bias_correction_kl: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.num_generations < 2:
            raise ValueError(f"num_generations={self.num_generations}; a group needs at least 2 rollouts to compare.")
        check_numbers(0, epsilon=epsilon, epsilon_high=epsilon_high)
        high = epsilon if epsilon_high is None else epsilon_high
        if delta is not None and delta <= 1 + high:
            raise ValueError(f"delta={delta} does nothing below the upper clip; expected more than {1 + high:g}.")
        self.adv_estimator, self.scale_rewards = adv_estimator, scale_rewards
        self.num_passes, self.num_parts = num_iterations, steps_per_generation
        self.loss_options: dict[str, Any] = {
            "loss_type": loss_type,
            "epsilon": epsilon,
            "epsilon_high": epsilon_high,
            "delta": delta,
            "importance_sampling_level": importance_sampling_level,
            "kl_coef": self.kl_coef,
            "kl_estimator": self.kl_estimator,
            "use_bias_correction_kl": use_bias_correction_kl,
        }

    def prepare(self, rollouts: Rollouts, rewards: Tensor) -> tuple[Experience, dict[str, float]]:
        """Advantages of the groups; log-probabilities of the rollouts if there is more than one step to take."""
        everyone = rewards if self.gather is None else self.gather(rewards)
        advantages = group_advantages(rewards, self.scale_rewards, self.adv_estimator, batch=everyone).flatten()
        old, sampling = self.behaviour(rollouts)
        mask, reference = self.learnable(rollouts, rewards), self.reference_logprobs(rollouts)
        return Experience(rollouts, mask, advantages, old, reference, sampling_logprobs=sampling), {}

    def idle(self, part: Experience) -> Tensor:
        """Also rows without an advantage, if neither penalty nor bonus acts on them."""
        nothing_else = not self.kl_coef and not self.entropy_coef
        return super().idle(part) | ((part.advantages == 0) & nothing_else)

    def losses(self, part: Experience, size: BatchSize, meter: Meter) -> Iterator[Tensor]:
        """That of `grpo_loss`, with the bonus."""
        yield self.policy_loss(part, size, meter, **self.loss_options)

    def size(self, mask: Tensor) -> BatchSize:
        """With "bnpo", this rank's own tokens."""
        if self.loss_options["loss_type"] == "bnpo":
            return BatchSize.of(mask, self.max_completion_length)
        return super().size(mask)
