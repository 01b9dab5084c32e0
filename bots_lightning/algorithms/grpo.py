"""GRPO: group-relative policy optimization (arXiv:2402.03300)."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

import torch
from torch import Tensor

from bots_lightning.algorithms.advantages import group_advantages
from bots_lightning.algorithms.logprobs import completion_logprobs, microbatches, sampling_logprobs
from bots_lightning.algorithms.losses import grpo_loss
from bots_lightning.algorithms.online import OnlineModule
from bots_lightning.rollouts import Rollouts


class GRPO(OnlineModule):
    """Raises the probability of completions that did better than their group, within a clipped ratio.

    Options have TRL's names. All arguments of `OnlineModule` and `PolicyModule` apply. Where rollouts come with
    log-probabilities (leftovers of dynamic sampling, or of an engine that knows them), the ratio is taken to those.

    Args:
        epsilon: lower clip of the probability ratio.
        epsilon_high: upper clip, `epsilon` if not given.
        num_iterations: optimizer steps on each batch of rollouts.
        scale_rewards: "group" divides advantages by the group's standard deviation, "none" does not.
        **kwargs: see `OnlineModule` and `PolicyModule`.
    """

    def __init__(
        self,
        *args: Any,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        num_iterations: int = 1,
        scale_rewards: Literal["group", "none"] = "group",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.epsilon, self.epsilon_high = epsilon, epsilon_high
        self.num_iterations = num_iterations
        self.scale_rewards = scale_rewards

    @property
    def optimizer_steps_per_iteration(self) -> int:
        """One optimizer step per pass over the batch."""
        return self.num_iterations

    def update(self, rollouts: Rollouts, rewards: Tensor) -> dict[str, float]:
        """`num_iterations` clipped policy-gradient steps on one batch of rollouts."""
        advantages = group_advantages(rewards, scale=self.scale_rewards == "group").flatten()
        mask = rollouts.completion_mask & ~rewards.flatten().isnan().unsqueeze(1)
        old_logprobs = torch.zeros(mask.shape, device=mask.device)
        metrics: dict[str, float] = {}
        for iteration in range(self.num_iterations):
            totals = self._accumulate_gradients(rollouts, advantages, mask, old_logprobs, first=iteration == 0)
            totals["grad_norm"] = self.optimizer_step_clipped()
            metrics = {name: metrics.get(name, 0.0) + value / self.num_iterations for name, value in totals.items()}
        metrics["learning_rate"] = self._current_learning_rate()
        return metrics

    def _accumulate_gradients(
        self, rollouts: Rollouts, advantages: Tensor, mask: Tensor, old_logprobs: Tensor, first: bool
    ) -> dict[str, float]:
        """One pass over the batch in micro-batches; the first one also records log π_old in place."""
        assert self.policy is not None
        totals: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=mask.device))
        lengths = rollouts.prompt_mask.sum(dim=1) + rollouts.lengths
        for rows in microbatches(lengths, self.max_tokens_per_microbatch):
            part = rollouts.rows(rows)
            width = part.completion_ids.shape[1]
            logprobs, entropy = completion_logprobs(self.policy, part, self.temperature)
            if first:
                old_logprobs[rows, :width] = sampling_logprobs(part, logprobs.detach())
            part_mask = mask[rows, :width]
            outputs = grpo_loss(
                logprobs,
                old_logprobs[rows, :width],
                advantages[rows],
                part_mask,
                epsilon=self.epsilon,
                epsilon_high=self.epsilon_high,
                num_rows=len(rollouts),
            )
            self.manual_backward(outputs.loss)
            totals["loss"] += outputs.loss.detach()
            totals["entropy"] += (entropy * part_mask).sum()
            for name, value in outputs.metrics.items():
                totals[name] += value
        tokens = mask.sum().clamp(min=1)
        return {
            "loss": float(totals["loss"]),
            "entropy": float(totals["entropy"] / tokens),
            "clip_ratio/low_mean": float(totals["clip_ratio/low_tokens"] / tokens),
            "clip_ratio/high_mean": float(totals["clip_ratio/high_tokens"] / tokens),
        }

    def _current_learning_rate(self) -> float:
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        return float(optimizer.param_groups[0]["lr"])
