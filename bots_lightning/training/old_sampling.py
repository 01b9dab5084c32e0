"""How an iteration comes by its rollouts: in rounds, each scored and reported to the belief."""

# Shapes: B tasks on this rank, G rollouts per task.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bots_lightning.beliefs import Evidence
from bots_lightning.data import TaskBatch
from bots_lightning.policy.recording import record_logprobs
from bots_lightning.training.ahead import Drawn
from bots_lightning.training.dynamic_sampling import DynamicSampling
from bots_lightning.training.failures import together
from bots_lightning.training.groups import Attempt, Groups, Sampled
from bots_lightning.training.old_drawing import DrawingModule


class SamplingModule(DrawingModule):
    """Rolls out the selected tasks, scores them and reports the evidence.

    Args:
        dynamic_sampling: replaces groups of equal rewards by further ones; None learns from what was selected.
        **kwargs: see `DrawingModule` and `PolicyModule`.
    """

    def __init__(self, *args: Any, dynamic_sampling: DynamicSampling | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if dynamic_sampling is not None and self.num_generations < 2:
            raise ValueError(
                f"dynamic_sampling looks for groups whose rewards differ; with num_generations={self.num_generations} "
                "there are none. Raise num_generations or leave dynamic_sampling out."
            )
        self.dynamic_sampling = dynamic_sampling
        self.leftovers: Groups | None = None  # mixed groups that the next iteration starts with

    # --- rounds -------------------------------------------------------------------------------------------------

    def sample(self, batch: TaskBatch) -> Sampled:
        """Rolls out the selected batch, and further ones as dynamic sampling asks; all ranks take as many rounds."""
        sampled, dynamic = Sampled(), self.dynamic_sampling
        self._sample_round(batch, sampled)
        while dynamic is not None and len(sampled.rounds) < dynamic.max_batches:
            enough = dynamic.enough(self.leftovers, sampled.rounds, len(batch))
            if self.trainer.strategy.reduce_boolean_decision(enough, all=True):
                break
            self._sample_round(self.select(self._datamodule.select), sampled)
        return sampled

    def _sample_round(self, batch: TaskBatch, sampled: Sampled) -> None:
        """Rolls out and scores one batch, and reports its evidence."""
        iteration, draw = self.progress.iterations, self.drawing(batch, len(sampled.rounds))
        with self.clock.phase("sync"):
            attempt = together(self.trainer.strategy, lambda: self._attempt(batch, draw))
        self.drawn()
        # Before the update: its thread pools stay busy for a while and would slow the belief down.
        tokens = attempt.rollouts.lengths.reshape(len(batch), -1).sum(dim=1).tolist()
        age = iteration - attempt.rollouts.policy_version
        evidence = Evidence.from_rewards(np.array(batch.indices), attempt.evidence, age)
        with self.clock.phase("sync"):
            self._datamodule.observe(evidence, dict(zip(batch.indices, tokens, strict=True)))
        self.clock.move(self._datamodule.observe_seconds, "sync", "observe")
        rewards = torch.as_tensor(attempt.rewards, dtype=torch.float32, device=self.device)
        iterations = torch.full((len(batch),), iteration, device=self.device)
        sampled.add(batch.tasks, attempt, Groups(attempt.rollouts, rewards, iterations))

    def _attempt(self, batch: TaskBatch, draw: Callable[[], Drawn]) -> Attempt:
        """What may fail on one rank alone: engines and reward functions depend on more than this program."""
        with self.clock.phase("rollout"):
            drawn = draw()
        with self.clock.phase("reward"):
            rollouts = drawn.rollouts.to(self.device)
            tokens = rollouts.completion_lists()
            completions = self.encoder.decode_rows(tokens)
            scores = drawn.rewards.finish(completions, tokens)
            rewards = self.scorer.combine(scores, batch.tasks)
            evidence = self.scorer.evidence(scores, rewards, batch.tasks)
        return Attempt(rollouts, completions, scores, rewards, evidence, drawn.rewards.outcomes)

    def staleness(self, sampled: Sampled, seconds: float) -> dict[str, float]:
        """Metrics of runs ahead: updates since the first round was sampled, and the seconds that took in all."""
        if not self.max_staleness:
            return {}
        updates = self.progress.iterations - sampled.rounds[0].rollouts.policy_version
        return {"sampling/staleness": float(updates), "rollout_ahead_time": seconds}

    def choose(self, sampled: Sampled, size: int) -> tuple[Groups, dict[str, float]]:
        """The groups to learn from, and metrics; sets leftovers aside, with log-probabilities under this policy."""
        if self.dynamic_sampling is None:
            return sampled.rounds[0], {}
        groups, leftovers, metrics = self.dynamic_sampling.compose(
            self.leftovers, sampled.rounds, size, self.progress.iterations, self.sampling.pad_token_id
        )
        if leftovers is not None:
            assert self.policy is not None
            with self.clock.phase("logprobs", self.device):
                rollouts = record_logprobs(
                    self.policy, leftovers.rollouts, self.temperature, self.max_tokens_per_microbatch
                )
            leftovers = replace(leftovers, rollouts=rollouts)
        self.leftovers = leftovers
        return groups, metrics

    # --- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the leftovers of dynamic sampling."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["leftovers"] = None if self.leftovers is None else self.leftovers.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the leftovers over, if this run samples dynamically and groups of the same size."""
        super().on_load_checkpoint(checkpoint)
        state, self.leftovers = checkpoint.get("leftovers"), None
        if self._trainer is not None and self.trainer.world_size > 1:
            return  # a checkpoint holds those of one rank only; all sample anew
        if state and self.dynamic_sampling and state["rewards"].shape[1] == self.num_generations:
            self.leftovers = Groups.from_state_dict(state)

    def on_train_start(self) -> None:
        """Leftovers of a checkpoint go where the policy is."""
        if self.leftovers is not None:
            self.leftovers = self.leftovers.to(self.device)
