"""The contract of algorithms, and what policy-gradient algorithms share."""

# Shapes: R rows, T completion tokens, K groups.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bots_lightning.algorithms.advantages import soft_overlong_penalty
from bots_lightning.algorithms.experience import Experience
from bots_lightning.algorithms.groups import RolloutGroups
from bots_lightning.algorithms.losses import BatchSize, KLEstimator, grpo_loss, token_mean
from bots_lightning.algorithms.meter import Meter, policy_metrics
from bots_lightning.algorithms.off_policy import DEFAULT, ImportanceSampling
from bots_lightning.algorithms.step import StepContext
from bots_lightning.options import check_numbers, check_option
from bots_lightning.policy import Critic, Policy
from bots_lightning.policy.recording import recorded_or_present
from bots_lightning.rollouts import Rollouts


class Algorithm(ABC):
    """What an update learns from (`prepare`) and what it minimizes (`losses`): a plain class that needs no Trainer.

    Args:
        kl_coef: weight of the KL penalty against the policy as it was loaded; with 0 there is no reference.
        kl_estimator: "k1", "k2" or "k3", see `kl_divergence`.
        entropy_coef: weight of the mean entropy per token, as a bonus.
        mask_truncated_completions: do not learn from completions that were cut at the length limit; they still count
            in the baseline of their group.
        soft_punish_cache: the last tokens of the length limit, over which a penalty grows from 0 to 1; see
            `soft_overlong_penalty`. It affects advantages only: the belief counts rewards without it. None: no penalty.
        target_kl: ends an iteration's update before the step at which `policy/approxkl_avg` exceeds it; None never.
        importance_sampling: weights for rollouts that come with the log-probabilities of what sampled them (servers,
            earlier policies); None takes the clipped ratio itself to those (verl's bypass mode).

    Attributes:
        num_epochs: over each batch of rollouts.
        num_minibatches: optimizer steps of an epoch.
        critic: a network that is trained beside the policy, if there is one.
        policy: that is trained, once `attach` has run.
        num_generations: rollouts per task on average, likewise.
    """

    num_epochs = 1
    num_minibatches = 1
    critic: Critic | None = None
    policy: Policy
    num_generations: int

    def __init__(
        self,
        kl_coef: float = 0.0,
        kl_estimator: KLEstimator = "k3",
        entropy_coef: float = 0.0,
        mask_truncated_completions: bool = False,
        soft_punish_cache: int | None = None,
        target_kl: float | None = None,
        importance_sampling: ImportanceSampling | None = DEFAULT,
    ) -> None:
        check_numbers(0, kl_coef=kl_coef, entropy_coef=entropy_coef)
        check_numbers(0, above=True, target_kl=target_kl)
        check_numbers(1, soft_punish_cache=soft_punish_cache)
        check_option("kl_estimator", kl_estimator, KLEstimator)
        self.kl_coef, self.kl_estimator, self.entropy_coef = kl_coef, kl_estimator, entropy_coef
        self.mask_truncated_completions, self.soft_punish_cache = mask_truncated_completions, soft_punish_cache
        self.target_kl, self.importance_sampling = target_kl, importance_sampling

    # --- setup --------------------------------------------------------------------------------------------------

    def attach(self, policy: Policy, num_generations: int, max_completion_length: int) -> None:
        """Takes the policy that it trains, before that is loaded.

        Args:
            policy: with its options.
            num_generations: rollouts per task.
            max_completion_length: tokens.

        Raises:
            ValueError: options of this algorithm do not fit these.
        """
        if self.soft_punish_cache is not None and self.soft_punish_cache > max_completion_length:
            raise ValueError(
                f"soft_punish_cache={self.soft_punish_cache}; expected between 1 and "
                f"max_completion_length={max_completion_length} tokens."
            )
        self.policy, self.num_generations = policy, num_generations

    def check_fit(self) -> None:  # noqa: B027 - most can train with what they were given
        """Refuses options that it cannot train with, before a model is loaded; evaluations and `predict` may have them.

        Raises:
            ValueError: options of this algorithm do not fit.
        """

    def build(self, seed: int) -> None:  # noqa: B027 - most have no network of their own
        """Makes the critic, if there is one, once the policy is loaded.

        Args:
            seed: of its weights.
        """

    def context_length(self) -> int | None:
        """The most tokens that the critic reads, if it has a checkpoint of its own; None for no bound."""
        return None

    def parameter_groups(self, trained: list[nn.Parameter], learning_rate: float) -> list[dict[str, Any]]:
        """Parameter groups of the optimizer.

        Args:
            trained: all weights that are trained.
            learning_rate: its peak.

        Returns:
            one or more, as torch's optimizers take them.
        """
        return [{"params": trained, "lr": learning_rate}]

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps on each batch of rollouts; fewer are taken where `target_kl` ends an update."""
        return self.num_epochs * self.num_minibatches

    # --- one update ---------------------------------------------------------------------------------------------

    @abstractmethod
    def prepare(self, groups: RolloutGroups, context: StepContext) -> tuple[Experience, dict[str, float]]:
        """What the update learns from, and metrics of it.

        Args:
            groups: R rows with rewards, in K groups.
            context: of the step; the policy's parameters are gathered.

        Returns:
            the R rows with advantages, and metrics by name.
        """

    @abstractmethod
    def losses(self, batch: Experience, size: BatchSize, meter: Meter, context: StepContext) -> Iterator[Tensor]:
        """Computes the losses of one micro-batch; each is differentiated before the next is asked for.

        Args:
            batch: rows of a minibatch.
            size: of that minibatch; losses add up over it.
            meter: takes the metrics.
            context: of the step.

        Yields:
            scalars, whose sum over the micro-batches of a minibatch is its loss.
        """

    def idle(self, batch: Experience) -> Tensor:
        """Finds rows that need no backward pass.

        Args:
            batch: R rows.

        Returns:
            (R,) bool, True where loss and gradient are 0 for certain.
        """
        return ~batch.mask.any(dim=1)

    def size(self, mask: Tensor, context: StepContext) -> BatchSize:
        """The size of a minibatch; rows and tokens are averaged over ranks, as their gradients will be.

        Args:
            mask: (R, T) bool, the tokens that are learned from.
            context: of the step.

        Returns:
            what the losses of its micro-batches add up over.
        """
        sizes = torch.stack([torch.tensor(len(mask), device=mask.device), mask.sum()])
        rows, tokens = context.gather(sizes).reshape(-1, 2).float().mean(dim=0).tolist()
        return BatchSize(rows, tokens, context.max_completion_length)

    def metrics(self, meter: Meter) -> dict[str, float]:
        """What the steps of an update did.

        Args:
            meter: of all micro-batches of all steps.

        Returns:
            metrics by name.
        """
        return policy_metrics(meter)

    # --- shared by algorithms -----------------------------------------------------------------------------------

    def shaped_rewards(self, groups: RolloutGroups, context: StepContext) -> Tensor:
        """Subtracts the penalty on length from the rewards, if one is set.

        Args:
            groups: R rows.
            context: of the step.

        Returns:
            (R,) float, NaN where there is no reward.
        """
        if self.soft_punish_cache is None:
            return groups.rewards
        lengths, limit = groups.rollouts.action_mask.sum(dim=1), context.max_completion_length
        return groups.rewards + soft_overlong_penalty(lengths, limit, self.soft_punish_cache)

    def learnable(self, rollouts: Rollouts, rewards: Tensor) -> Tensor:
        """Which tokens are learned from.

        Args:
            rollouts: R rows.
            rewards: (R,) float, NaN where there is none.

        Returns:
            (R, T) bool, True on the tokens that the policy sampled, in completions that have a reward and, with
            `mask_truncated_completions`, an end.
        """
        rows = ~rewards.isnan()
        if self.mask_truncated_completions:
            rows &= rollouts.finished
        return rollouts.action_mask & rows.unsqueeze(1)

    def behaviour(
        self, rollouts: Rollouts, context: StepContext, record: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """What ratios are taken to, and what the rollouts were sampled by where that may be another distribution.

        Args:
            rollouts: R rows.
            context: of the step.
            record: ask for the first in any case.

        Returns:
            old_logprobs and sampling_logprobs of `Experience`, each (R, T) or None. On all ranks the second is None, or
            on none, so that they have the same metrics.
        """
        sampling = rollouts.logprobs
        if bool(context.gather(torch.tensor(sampling is not None, device=context.device)).any()) and sampling is None:
            sampling = torch.full(rollouts.completion_ids.shape, torch.nan, device=context.device)
        uncorrected = sampling is not None and self.importance_sampling is None
        if not (record or uncorrected or self.steps_per_iteration > 1):
            return None, sampling
        old = self.policy.logprobs(rollouts)
        return (recorded_or_present(rollouts, old), None) if uncorrected else (old, sampling)

    def reference_logprobs(self, rollouts: Rollouts) -> Tensor | None:
        """Log-probabilities under the reference, for the KL penalty.

        Args:
            rollouts: R rows.

        Returns:
            (R, T) float; None without a penalty.
        """
        return self.policy.reference_logprobs(rollouts) if self.kl_coef else None

    def policy_loss(
        self, batch: Experience, size: BatchSize, meter: Meter, context: StepContext, options: dict[str, Any]
    ) -> Tensor:
        """The clipped surrogate less the entropy bonus.

        Args:
            batch: rows of a minibatch.
            size: of that minibatch.
            meter: takes the metrics.
            context: of the step.
            options: of `grpo_loss`.

        Returns:
            scalar, this micro-batch's share of the minibatch's loss.
        """
        logprobs, entropy = context.forward(lambda: self.policy(batch.rollouts))
        old_logprobs = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        weights = self._weights(batch, logprobs, old_logprobs, meter)
        given = options | {"weights": weights, "ref_logprobs": batch.ref_logprobs}
        outputs = grpo_loss(logprobs, old_logprobs, batch.advantages, batch.mask, size, **given)
        meter.add("entropy", entropy, batch.mask)
        for name, values in outputs.metrics.items():
            meter.add(name, values, batch.mask, rows=name.startswith("clipped"))
        if not self.entropy_coef:
            return outputs.loss
        return outputs.loss - self.entropy_coef * token_mean(entropy, batch.mask, size)

    def _weights(self, batch: Experience, logprobs: Tensor, old_logprobs: Tensor, meter: Meter) -> Tensor | None:
        """Importance weights, (R, T) or (R, 1), if what sampled is known to be another distribution."""
        if batch.sampling_logprobs is None or self.importance_sampling is None:
            return None
        known = batch.mask & ~batch.sampling_logprobs.isnan()
        weights = self.importance_sampling.weights(old_logprobs, batch.sampling_logprobs, batch.mask)
        meter.add("logp_difference", (old_logprobs - batch.sampling_logprobs).abs(), known, extremes=True)
        meter.add("importance_weight", weights, known, extremes=True)
        return weights
