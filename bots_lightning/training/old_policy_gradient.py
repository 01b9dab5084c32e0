"""Policy-gradient steps: passes, mini-batches and micro-batches over one batch of rollouts."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bots_lightning.algorithms.advantages import soft_overlong_penalty
from bots_lightning.algorithms.experience import Experience
from bots_lightning.algorithms.losses import BatchSize, KLEstimator, grpo_loss, token_mean
from bots_lightning.algorithms.meter import Meter
from bots_lightning.algorithms.off_policy import ImportanceSampling, Mode
from bots_lightning.options import check_numbers
from bots_lightning.policy.loading import checkpoint_folder, load_policy
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.policy.recording import policy_logprobs, recorded_or_present
from bots_lightning.policy.reference import reference_logprobs
from bots_lightning.rollouts import Rollouts, derive_seed
from bots_lightning.training.metrics import policy_metrics
from bots_lightning.training.old_gradients import GradientModule
from bots_lightning.training.old_module import MINIBATCHES


class PolicyGradientModule(GradientModule):
    """Learns from each batch of rollouts in one or several clipped optimizer steps.

    Subclasses say what an update learns from (`prepare`) and what it minimizes (`losses`).

    Args:
        kl_coef: weight of the KL penalty against the policy as it was loaded; with 0 there is no reference.
        kl_estimator: "k1", "k2" or "k3", see `kl_divergence`.
        entropy_coef: weight of the mean entropy per token, as a bonus.
        mask_truncated_completions: do not learn from completions that were cut at the length limit; they still count
            in the baseline of their group.
        soft_punish_cache: the last tokens of the length limit, over which a penalty grows from 0 to 1; see
            `soft_overlong_penalty`. It bears on advantages only: the belief counts rewards without it. None: none.
        target_kl: ends an iteration's update before the step at which `policy/approxkl_avg` exceeds it; None never.
        importance_sampling_correction: weigh tokens by `ImportanceSampling` where rollouts come with the
            log-probabilities of what sampled them: servers, earlier policies. False takes the clipped ratio itself to
            those (verl's bypass mode).
        importance_sampling_mode: "token_truncate", "token_mask", "sequence_truncate" or "sequence_mask".
        importance_sampling_clip_max: the largest weight; None leaves it open.
        importance_sampling_clip_min: the smallest weight; None leaves it open.
        **kwargs: see `OptimizerModule`, `OnlineModule` and `PolicyModule`.
    """

    def __init__(
        self,
        *args: Any,
        kl_coef: float = 0.0,
        kl_estimator: KLEstimator = "k3",
        entropy_coef: float = 0.0,
        mask_truncated_completions: bool = False,
        soft_punish_cache: int | None = None,
        target_kl: float | None = None,
        importance_sampling_correction: bool = True,
        importance_sampling_mode: Mode = "sequence_mask",
        importance_sampling_clip_max: float | None = 3.0,
        importance_sampling_clip_min: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(0, kl_coef=kl_coef, entropy_coef=entropy_coef)
        check_numbers(0, above=True, target_kl=target_kl)
        if soft_punish_cache is not None and not 0 < soft_punish_cache <= self.max_completion_length:
            raise ValueError(
                f"soft_punish_cache={soft_punish_cache}; expected between 1 and "
                f"max_completion_length={self.max_completion_length} tokens."
            )
        self.kl_coef, self.kl_estimator = kl_coef, kl_estimator
        self.entropy_coef = entropy_coef
        self.mask_truncated_completions = mask_truncated_completions
        self.soft_punish_cache = soft_punish_cache
        self.target_kl = target_kl
        bounds = importance_sampling_clip_max, importance_sampling_clip_min
        correction = ImportanceSampling(importance_sampling_mode, *bounds)
        self.correction = correction if importance_sampling_correction else None
        self.reference: nn.Module | None = None

    @abstractmethod
    def prepare(self, rollouts: Rollouts, rewards: Tensor) -> tuple[Experience, dict[str, float]]:
        """What the update learns from, and metrics of it.

        Args:
            rollouts: R = B·G rows.
            rewards: (B, G) float, NaN where there is none.
        """

    def setup(self, stage: str) -> None:
        """Loads the reference, before a strategy divides the weights."""
        super().setup(stage)
        if stage == "fit":
            self.load_reference()

    def load_reference(self) -> None:
        """A frozen copy of the policy as it was, where the penalty needs one."""
        if self.kl_coef and self.lora is None and self.reference is None:
            self.reference = load_policy(checkpoint_folder(self.pretrained), None, self.dtype_name)
            self.reference.requires_grad_(False).to(self.device)

    def on_fit_start(self) -> None:
        """Refuses a limit on optimizer steps where their number is not known ahead."""
        if self.target_kl is not None and self.trainer.max_steps > 0:
            raise ValueError(
                f"trainer.max_steps={self.trainer.max_steps} counts optimizer steps, and target_kl={self.target_kl} "
                "leaves some out: the run would go on past its schedule. Limit it by trainer.max_epochs and "
                "data.steps_per_epoch."
            )
        super().on_fit_start()

    # --- one update ---------------------------------------------------------------------------------------------

    def update(self, rollouts: Rollouts, rewards: Tensor) -> dict[str, float]:
        """The optimizer steps of one batch of rollouts."""
        with self.whole_model(), self.clock.phase("logprobs", self.device):
            experience, metrics = self.prepare(rollouts, self._shaped(rollouts, rewards))
        meter, losses, norms, steps = Meter(), [], [], 0
        for rows in self._minibatches(len(experience)):
            with self.clock.phase("backward"):
                part = experience.rows(rows)
                loss, figures = self.gradients(part)
            if self.gather is not None:
                figures.over_ranks(self.gather)
            if self._has_moved_too_far(figures):
                self._optimizer.zero_grad()
                break
            meter.merge(figures)
            with self.clock.phase("optimizer", self.device):
                norm = self.clip_and_step(part, loss)
            steps += 1
            if math.isfinite(norm):
                losses.append(loss)
                norms.append(norm)
        for _ in range(self.optimizer_steps_per_iteration - steps):
            self.advance_schedule()
        metrics |= self.metrics(meter)
        metrics |= {"loss": _mean(losses), "grad_norm": _mean(norms), "optimizer_steps": float(len(losses))}
        metrics |= {"skipped_steps": float(self.progress.skipped_steps)}
        return metrics | {"learning_rate": float(self._optimizer.param_groups[0]["lr"])}

    def _has_moved_too_far(self, figures: Meter) -> bool:
        """Whether the next step is one too many."""
        return self.target_kl is not None and figures.mean("approxkl") > self.target_kl

    def metrics(self, meter: Meter) -> dict[str, float]:
        """What the steps of an update did, from the figures of their micro-batches."""
        return policy_metrics(meter)

    def _shaped(self, rollouts: Rollouts, rewards: Tensor) -> Tensor:
        if self.soft_punish_cache is None:
            return rewards
        penalty = soft_overlong_penalty(rollouts.lengths, self.max_completion_length, self.soft_punish_cache)
        return rewards + penalty.reshape(rewards.shape)

    def learnable(self, rollouts: Rollouts, rewards: Tensor) -> Tensor:
        """(R, T) bool, the tokens to learn from: of completions that have a reward and, if so set, an end."""
        rows = ~rewards.flatten().isnan()
        if self.mask_truncated_completions:
            rows &= rollouts.finished
        return rollouts.completion_mask & rows.unsqueeze(1)

    def behaviour(self, rollouts: Rollouts, record: bool = False) -> tuple[Tensor | None, Tensor | None]:
        """What ratios are taken to, and what the rollouts were sampled by where that may be another distribution.

        Args:
            rollouts: R rows.
            record: ask for the first in any case.

        Returns:
            old_logprobs and sampling_logprobs of `Experience`, each (R, T) or None. On all ranks the second is None, or
            on none, so that they have the same metrics.
        """
        assert self.policy is not None
        sampling = rollouts.logprobs
        if self.gather is not None and bool(self.gather(torch.tensor(sampling is not None, device=self.device)).any()):
            nothing = torch.full(rollouts.completion_ids.shape, torch.nan, device=self.device)
            sampling = nothing if sampling is None else sampling
        uncorrected = sampling is not None and self.correction is None
        if not (record or uncorrected or self.optimizer_steps_per_iteration > 1):
            return None, sampling
        old = policy_logprobs(self.policy, rollouts, self.temperature, self.max_tokens_per_microbatch)
        return (recorded_or_present(rollouts, old), None) if uncorrected else (old, sampling)

    def reference_logprobs(self, rollouts: Rollouts) -> Tensor | None:
        """(R, T) float under the reference, if the penalty needs them."""
        if not self.kl_coef:
            return None
        assert self.policy is not None
        budget = self.max_tokens_per_microbatch
        return reference_logprobs(self.policy, self.reference, rollouts, self.temperature, budget)

    def _minibatches(self, rows: int) -> Iterator[Tensor]:
        """Row indices of each optimizer step; shuffled anew in each pass if that has several."""
        for number in range(self.num_passes):
            order = torch.arange(rows)
            if self.num_parts > 1:
                keys = (self.seed, MINIBATCHES, self.progress.iterations, self.global_rank, number)
                order = torch.randperm(rows, generator=torch.Generator().manual_seed(derive_seed(*keys)))
            yield from (part.to(self.device) for part in order.tensor_split(self.num_parts))

    def policy_loss(self, part: Experience, size: BatchSize, meter: Meter, **options: Any) -> Tensor:
        """The clipped surrogate less the entropy bonus; options as of `grpo_loss`."""
        assert self.policy is not None
        policy, temperature = self.policy, self.temperature
        logprobs, entropy = self.through_strategy(lambda: completion_logprobs(policy, part.rollouts, temperature))
        old_logprobs = logprobs.detach() if part.old_logprobs is None else part.old_logprobs
        options |= {"weights": self._weights(part, old_logprobs, meter), "ref_logprobs": part.ref_logprobs}
        outputs = grpo_loss(logprobs, old_logprobs, part.advantages, part.mask, size, **options)
        meter.add("entropy", entropy, part.mask)
        for name, values in outputs.figures.items():
            meter.add(name, values, part.mask, rows=name.startswith("clipped"))
        if not self.entropy_coef:
            return outputs.loss
        return outputs.loss - self.entropy_coef * token_mean(entropy, part.mask, size)

    def _weights(self, part: Experience, old_logprobs: Tensor, meter: Meter) -> Tensor | None:
        """Those of importance sampling, if what sampled is known to be another distribution."""
        if part.sampling_logprobs is None or self.correction is None:
            return None
        known = part.mask & ~part.sampling_logprobs.isnan()
        weights = self.correction.weights(old_logprobs, part.sampling_logprobs, part.mask)
        meter.add("logp_difference", (old_logprobs - part.sampling_logprobs).abs(), known, extremes=True)
        meter.add("importance_weight", weights, known, extremes=True)
        return weights


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
