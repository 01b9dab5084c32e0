"""GRPO: group-relative policy optimization (arXiv:2402.03300), and its family."""

# Shapes: K groups of n_k rows, R = Σ n_k rows, T completion tokens.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from bots_lightning.algorithms.advantages import Estimator, Scale, group_advantages, task_weights
from bots_lightning.algorithms.algorithm import Algorithm
from bots_lightning.algorithms.experience import Experience
from bots_lightning.algorithms.groups import RolloutGroups
from bots_lightning.algorithms.losses import BatchSize, KLEstimator, Level, LossType
from bots_lightning.algorithms.meter import Meter
from bots_lightning.algorithms.off_policy import DEFAULT, ImportanceSampling, off_policy_mask
from bots_lightning.algorithms.step import StepContext
from bots_lightning.options import check_numbers, check_option


class GRPO(Algorithm):
    """Raises the probability of completions that did better than their group, within a clipped ratio.

    Options have TRL's names, but `kl_coef` for the weight of the KL penalty and verl's `adv_estimator`.

    Args:
        loss_type: how the losses of tokens are averaged: "dapo", "dr_grpo", "bnpo" or "grpo"; see `aggregate`.
        epsilon: lower clip of the probability ratio.
        epsilon_high: upper clip, `epsilon` if not given.
        delta: bounds the ratio also where the advantage is negative; None does not.
        importance_sampling_level: "token", or "sequence": one ratio per completion (GSPO).
        adv_estimator: the baseline: "grpo" the mean of the group, "rloo" the mean of the others in it.
        scale_rewards: divide advantages by the deviation of the "group", of the "batch", or by "none".
        num_iterations: epochs over each batch of rollouts.
        steps_per_generation: optimizer steps of an epoch, each on a minibatch.
        use_bias_correction_kl: weight the KL penalty by the ratio, see `grpo_loss`.
        kl_coef: weight of the KL penalty against the policy as it was loaded; with 0 there is no reference.
        kl_estimator: "k1", "k2" or "k3", see `kl_divergence`.
        entropy_coef: weight of the mean entropy per token, as a bonus.
        mask_truncated_completions: do not learn from completions that were cut at the length limit.
        soft_punish_cache: the last tokens of the length limit, over which a penalty grows to 1; None: no penalty.
        target_kl: ends an iteration's update before the step at which `policy/approxkl_avg` exceeds it; None never.
        importance_sampling: weights for rollouts that another distribution has sampled; None does not correct.
        off_policy_mask_threshold: leaves out completions with a negative advantage once the policy is so many nats per
            token away from what sampled them, see `off_policy_mask`; None leaves out none.

    Raises:
        ValueError: an option is out of bounds, or none of its words.
    """

    def __init__(
        self,
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
        kl_coef: float = 0.0,
        kl_estimator: KLEstimator = "k3",
        entropy_coef: float = 0.0,
        mask_truncated_completions: bool = False,
        soft_punish_cache: int | None = None,
        target_kl: float | None = None,
        importance_sampling: ImportanceSampling | None = DEFAULT,
        off_policy_mask_threshold: float | None = None,
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
        check_numbers(0, epsilon=epsilon, epsilon_high=epsilon_high)
        check_numbers(0, off_policy_mask_threshold=off_policy_mask_threshold)
        check_numbers(1, num_iterations=num_iterations, steps_per_generation=steps_per_generation)
        check_option("loss_type", loss_type, LossType)
        check_option("importance_sampling_level", importance_sampling_level, Level)
        check_option("adv_estimator", adv_estimator, Estimator)
        check_option("scale_rewards", scale_rewards, Scale)
        high = epsilon if epsilon_high is None else epsilon_high
        if delta is not None and delta <= 1 + high:
            raise ValueError(f"delta={delta} does nothing below the upper clip; expected more than {1 + high:g}.")
        self.adv_estimator, self.scale_rewards = adv_estimator, scale_rewards
        self.off_policy_mask_threshold = off_policy_mask_threshold
        self.num_epochs, self.num_minibatches = num_iterations, steps_per_generation
        self.loss_options: dict[str, Any] = {
            "loss_type": loss_type,
            "epsilon": epsilon,
            "epsilon_high": epsilon_high,
            "delta": delta,
            "importance_sampling_level": importance_sampling_level,
            "kl_coef": kl_coef,
            "kl_estimator": kl_estimator,
            "use_bias_correction_kl": use_bias_correction_kl,
        }

    def check_fit(self) -> None:
        """Refuses groups of one.

        Raises:
            ValueError: tasks have one rollout each.
        """
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations={self.num_generations}; a group needs at least 2 rollouts to compare. Set 2 or more."
            )

    def prepare(self, groups: RolloutGroups, context: StepContext) -> tuple[Experience, dict[str, float]]:
        """Advantages of the groups; log-probabilities of the rollouts if there is more than one step to take.

        Args:
            groups: R rows with rewards, in K groups.
            context: of the step; the policy's parameters are gathered.

        Returns:
            the R rows with advantages (R,), and no metrics.
        """
        rollouts, rewards = groups.rollouts, self.shaped_rewards(groups, context)
        batch = context.gather_rows(rewards) if self.scale_rewards == "batch" else None
        grouping, rounds = groups.group_of_row, groups.round_of_row
        advantages = group_advantages(
            rewards, grouping, self.scale_rewards, self.adv_estimator, batch=batch, round_of_row=rounds
        )
        advantages = advantages * task_weights(grouping, rounds, self.num_generations)
        old, sampling = self.behaviour(rollouts, context)
        mask, reference = self.learnable(rollouts, rewards), self.reference_logprobs(rollouts)
        return Experience(rollouts, mask, advantages, old, reference, sampling_logprobs=sampling), {}

    def idle(self, batch: Experience) -> Tensor:
        """Finds rows that need no backward pass: those without an advantage too, unless a penalty or bonus is on.

        Args:
            batch: R rows.

        Returns:
            (R,) bool.
        """
        nothing_else = not self.kl_coef and not self.entropy_coef
        return super().idle(batch) | ((batch.advantages == 0) & nothing_else)

    def losses(self, batch: Experience, size: BatchSize, meter: Meter, context: StepContext) -> Iterator[Tensor]:
        """The loss of `grpo_loss`, less the entropy bonus; see `Algorithm.losses`."""
        yield self.policy_loss(batch, size, meter, context, self.loss_options)

    def _weights(self, batch: Experience, logprobs: Tensor, old_logprobs: Tensor, meter: Meter) -> Tensor | None:
        """Importance weights, and 0 for completions that the policy has moved away from."""
        weights = super()._weights(batch, logprobs, old_logprobs, meter)
        if self.off_policy_mask_threshold is None:
            return weights
        sampled_by = old_logprobs if batch.sampling_logprobs is None else batch.sampling_logprobs
        kept = off_policy_mask(batch.advantages, logprobs, sampled_by, batch.mask, self.off_policy_mask_threshold)
        meter.add("off_policy", 1 - kept, batch.mask)
        return kept if weights is None else weights * kept

    def size(self, mask: Tensor, context: StepContext) -> BatchSize:
        """The size of a minibatch; with "bnpo", its tokens are those of this rank alone. See `Algorithm.size`."""
        size = super().size(mask, context)
        if self.loss_options["loss_type"] == "bnpo":
            return BatchSize(size.rows, float(mask.sum()), size.max_completion_length)
        return size
