"""Asynchronous rollouts: coming batches are rolled out by earlier policies while the present one learns."""

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
from bots_lightning.rollouts import RolloutEngine, Rollouts
from bots_lightning.training.background import BackgroundRollouts, RollOut, background_state, rows_of_batch
from bots_lightning.training.batch import UnscoredBatch, closed_on_failure
from bots_lightning.training.failures import together

MOST_STALE = 4  # updates; beyond that, what corrects for it costs more than waiting


class RolloutsAhead:
    """The batches that are learned from next: under way in the background, done, or restored from a checkpoint.

    They are taken in the order in which they were begun, so that a run does not depend on which is done first.

    Args:
        policy: that is trained.
        engine: that samples.
        max_staleness: how many batches there may be.
    """

    def __init__(self, policy: Policy, engine: RolloutEngine, max_staleness: int) -> None:
        self.policy, self.engine, self.max_staleness = policy, engine, max_staleness
        self._background: BackgroundRollouts | None = None
        self._restored: list[dict[str, Any]] = []  # they come before those in the background
        self._seconds = 0.0

    def begin(self, batch: TaskBatch, roll_out: RollOut, context: StepContext) -> None:
        """Starts to roll out a batch with the present policy.

        Args:
            batch: the next one.
            roll_out: samples and scores it with a model; on any thread, without collectives.
            context: of the present step.
        """
        if self._background is None:
            options = self.policy.model, context.device, self.max_staleness, self.engine.own_weights
            self._background = together(context.strategy, lambda: BackgroundRollouts(*options))
        precision, temperature = context.strategy.precision_plugin, self.policy.temperature
        budget = self.policy.max_tokens_per_microbatch

        def on_thread(model: nn.Module) -> UnscoredBatch:
            with precision.forward_context():
                unscored = roll_out(model)
                with closed_on_failure(unscored.rewards):
                    rollouts = unscored.rollouts
                    if not self.engine.own_weights and _has_unknown_logprobs(rollouts):  # the policy will have moved on
                        rollouts = record_logprobs(model, rollouts, temperature, budget)
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
            RuntimeError: another batch comes next.
        """
        if self._restored:
            restored = rows_of_batch(self._restored[0], batch)
            return None if restored is None else lambda: UnscoredBatch(restored, rewards(batch))
        if self._background is None or not self._background.batches:
            return None
        begun = self._background.batches[0]
        if (begun.batch.positions, begun.batch.indices) != (batch.positions, batch.indices):
            raise RuntimeError(
                "the train loader served another batch than was drawn ahead. Do not wrap the loader, or set "
                "max_staleness=0."
            )

        def result() -> UnscoredBatch:
            begun.wait()
            return begun.result.result()

        return result

    def taken(self) -> None:
        """Forgets the first batch: it has been learned from."""
        if self._restored:
            self._restored.pop(0)
        elif self._background is not None and self._background.batches:
            self._background.taken()

    def wait(self, batches: int | None = None) -> float:
        """Waits for the first so many batches, or for all.

        Returns:
            the seconds that the first took in all, 0 if it is not in the background.
        """
        self._seconds = 0.0
        if self._background is not None:
            self._background.wait(None if batches is None else max(0, batches - len(self._restored)))
            if self._background.batches and not self._restored:
                first = self._background.batches[0]
                self._seconds = first.ended - first.began
        return self._seconds

    def metrics(self, rollouts: Rollouts, context: StepContext) -> dict[str, float]:
        """How far the step is off-policy, how long its rollouts took, and how long the engine had nothing to do.

        Args:
            rollouts: of the step's first batch.
            context: of the step.
        """
        updates = context.progress.iterations - rollouts.policy_version
        idle = 0.0 if self._background is None else self._background.idle_seconds
        return {
            "sampling/staleness": float(updates),
            "rollout_ahead_time": self._seconds,
            "rollout_idle_time": idle,
        }

    def close(self) -> None:
        """Gives up what is under way and releases the copies of the policy; returns at once."""
        if self._background is not None:
            self.engine.cancel()
            self._background.close()
        self._background, self._restored = None, []

    @property
    def is_begun(self) -> bool:
        """Whether a thread has been started."""
        return self._background is not None

    def state_dict(self, pad_token_id: int) -> list[dict[str, Any]]:
        """What a checkpoint holds of the batches; all ranks call it together.

        Args:
            pad_token_id: fills up token ids where ranks differ in length.
        """
        return self._restored + background_state(self._background, pad_token_id)  # as many restored on all ranks

    def load_state_dict(self, state: list[dict[str, Any]] | dict[str, Any] | None) -> None:
        """Restores the batches of a checkpoint, which are used if the same ones come next.

        Args:
            state: of `state_dict`; earlier versions had one batch, or None.
        """
        self._restored = [state] if isinstance(state, dict) else list(state or [])


def _has_unknown_logprobs(rollouts: Rollouts) -> bool:
    """Whether the engine has left out the log-probability of some token that the policy sampled."""
    return rollouts.logprobs is None or bool((rollouts.logprobs.isnan() & rollouts.action_mask).any())
