"""Asynchronous rollouts: the next batch is rolled out by the present policy while that learns (one step off-policy)."""

# Shapes: K tasks on this rank, n_k rollouts of task k.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bots_lightning.algorithms import StepContext
from bots_lightning.data import TaskBatch
from bots_lightning.policy import Policy
from bots_lightning.policy.recording import record_logprobs
from bots_lightning.rewards import RewardStream
from bots_lightning.rollouts import Rollouts
from bots_lightning.training.background import BackgroundRollouts, RollOut, background_state, rows_of_batch
from bots_lightning.training.batch import UnscoredBatch, closed_on_failure
from bots_lightning.training.failures import together


class NextBatch:
    """The next batch: under way in the background, done, or restored from a checkpoint.

    Args:
        policy: that is trained.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._background: BackgroundRollouts | None = None
        self._restored: dict[str, Any] | None = None
        self._waited = 0.0

    def begin(self, batch: TaskBatch, roll_out: RollOut, context: StepContext) -> None:
        """Starts to roll out a batch with the present policy.

        Args:
            batch: the next one.
            roll_out: samples and scores it with a model; on any thread, without collectives.
            context: of the present step.
        """
        if self._background is None:
            model, device = self.policy.model, context.device
            self._background = together(context.strategy, lambda: BackgroundRollouts(model, device))
        precision, temperature = context.strategy.precision_plugin, self.policy.temperature
        budget = self.policy.max_tokens_per_microbatch

        def on_thread(copied: nn.Module) -> UnscoredBatch:
            with precision.forward_context():
                unscored = roll_out(copied)
                with closed_on_failure(unscored.rewards):
                    rollouts = unscored.rollouts
                    if _has_unknown_logprobs(rollouts):  # the policy will have moved on
                        rollouts = record_logprobs(copied, rollouts, temperature, budget)
                    return replace(unscored, rollouts=rollouts.to(torch.device("cpu")))

        self._background.begin(batch, on_thread)

    def rollouts_of(
        self, batch: TaskBatch, rewards: Callable[[TaskBatch], RewardStream]
    ) -> Callable[[], UnscoredBatch] | None:
        """The rollouts of a batch: they may be under way, or in the checkpoint from which this run was resumed.

        Args:
            batch: that the train loader serves.
            rewards: of a batch that is still to be scored.

        Returns:
            waits for the rollouts and returns them, when called; None if there are none.

        Raises:
            RuntimeError: another batch is under way.
        """
        if self._background is None or self._background.batch is None:
            restored = rows_of_batch(self._restored, batch)
            return None if restored is None else lambda: UnscoredBatch(restored, rewards(batch))
        begun = self._background.batch
        if (begun.positions, begun.indices) != (batch.positions, batch.indices):
            raise RuntimeError(
                "the train loader served another batch than was drawn ahead. Do not wrap the loader, or set "
                "max_staleness=0."
            )
        return self._background.result

    def taken(self) -> None:
        """Forgets the rollouts: they have been learned from."""
        self._restored = None
        if self._background is not None:
            self._background.taken()

    def wait(self) -> float:
        """Waits for the batch that is under way: engine and graders serve one batch at a time.

        Returns:
            the seconds that it took in all, 0 if there was nothing.
        """
        self._waited = 0.0
        if self._background is not None and self._background.batch is not None:
            self._background.wait()
            self._waited = self._background.seconds
        return self._waited

    def metrics(self, rollouts: Rollouts, context: StepContext) -> dict[str, float]:
        """How far the step is off-policy, and how long its rollouts took.

        Args:
            rollouts: of the step's first batch.
            context: of the step.
        """
        updates = context.progress.iterations - rollouts.policy_version
        return {"sampling/staleness": float(updates), "rollout_ahead_time": self._waited}

    def close(self) -> None:
        """Gives up what is under way and releases the copy of the policy; the engine is cancelled by the caller."""
        if self._background is not None:
            self._background.close()
        self._background = self._restored = None

    @property
    def is_begun(self) -> bool:
        """Whether a thread has been started."""
        return self._background is not None

    def state_dict(self, pad_token_id: int) -> dict[str, Any] | None:
        """What a checkpoint holds of the batch; all ranks call it together.

        Args:
            pad_token_id: fills up token ids where ranks differ in length.
        """
        restored = self._restored  # the same on all ranks
        return restored or background_state(self._background, pad_token_id)

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restores the batch of a checkpoint, which is used if the next batch is the same."""
        self._restored = state


def _has_unknown_logprobs(rollouts: Rollouts) -> bool:
    """Whether the engine has left out the log-probability of some token that the policy sampled."""
    return rollouts.logprobs is None or bool((rollouts.logprobs.isnan() & rollouts.action_mask).any())
