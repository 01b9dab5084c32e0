"""How an iteration comes by its rollouts: in rounds, or one step ahead."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows.

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bots_lightning.algorithms.ahead import (
    Drawn,
    PolicyCopy,
    RolloutsAhead,
    ahead_state,
    own_stream,
    rows_of_batch,
)
from bots_lightning.algorithms.dynamic_sampling import DynamicSampling
from bots_lightning.algorithms.failures import together
from bots_lightning.algorithms.groups import Attempt, Groups, Sampled
from bots_lightning.algorithms.module import TRAIN, PolicyModule
from bots_lightning.algorithms.options import check_numbers
from bots_lightning.algorithms.recording import record_logprobs
from bots_lightning.algorithms.step_metrics import StepClock
from bots_lightning.beliefs import Evidence
from bots_lightning.data import TaskBatch
from bots_lightning.rewards import RewardStream
from bots_lightning.rollouts import derive_seed
from bots_lightning.strategies import divides_weights, whole_model


class SamplingModule(PolicyModule):
    """Rolls out the selected tasks, scores them and reports the evidence.

    Args:
        max_tokens_per_microbatch: budget of one forward and backward pass in tokens, prompts and padding included;
            None takes the whole batch at once.
        dynamic_sampling: replaces groups of equal rewards by further ones; None learns from what was selected.
        max_staleness: 1 rolls out the next batch while the policy learns from the present one: selection has seen all
            evidence, but the rollouts are those of the policy before its last update, which `importance_sampling_…`
            and the age of the evidence make up for. It pays where rollouts have a device of their own (`ServerEngine`);
            trained weights are held twice. 0 takes turns.
        **kwargs: see `PolicyModule`.
    """

    def __init__(
        self,
        *args: Any,
        max_tokens_per_microbatch: int | None = None,
        dynamic_sampling: DynamicSampling | None = None,
        max_staleness: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(1, max_tokens_per_microbatch=max_tokens_per_microbatch)
        check_numbers(0, high=1, max_staleness=max_staleness)
        if dynamic_sampling is not None and self.num_generations < 2:
            raise ValueError(
                f"dynamic_sampling looks for groups whose rewards differ; with num_generations={self.num_generations} "
                "there are none. Raise num_generations or leave dynamic_sampling out."
            )
        self.max_tokens_per_microbatch = max_tokens_per_microbatch
        self.dynamic_sampling = dynamic_sampling
        self.max_staleness = max_staleness
        self.leftovers: Groups | None = None  # mixed groups that the next iteration starts with
        self.clock = StepClock()  # of the present step
        self._ahead: RolloutsAhead | None = None  # the next iteration's first batch
        self._resumed: dict[str, Any] | None = None  # the same, from a checkpoint
        self._copy: PolicyCopy | None = None

    @property
    def gather(self) -> Callable[[Tensor], Tensor] | None:
        """(…) to (W, …), the tensors of all W ranks; None if there is one, or no trainer."""
        return self._gather if self._trainer is not None and self.trainer.world_size > 1 else None

    def _gather(self, tensor: Tensor) -> Tensor:
        with self.clock.phase("sync"):
            return self.all_gather(tensor)  # type: ignore[return-value]

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Holds all weights on every rank, for passes without gradient; see the function `whole_model`."""
        running = self.clock.running
        with self.clock.phase("sync"), whole_model(self.trainer.strategy), self.clock.phase(running):
            yield

    # --- rounds -------------------------------------------------------------------------------------------------

    def sample(self, batch: TaskBatch) -> Sampled:
        """Rolls out the selected batch, and further ones as dynamic sampling asks; all ranks take as many rounds."""
        sampled, dynamic = Sampled(), self.dynamic_sampling
        self._sample_round(batch, sampled)
        while dynamic is not None and len(sampled.rounds) < dynamic.max_batches:
            enough = dynamic.enough(self.leftovers, sampled.rounds, len(batch))
            if self.trainer.strategy.reduce_boolean_decision(enough, all=True):
                break
            self._sample_round(self._select(self._datamodule.select), sampled)
        return sampled

    def _sample_round(self, batch: TaskBatch, sampled: Sampled) -> None:
        """Rolls out and scores one batch, and reports its evidence."""
        iteration, draw = self.progress.iterations, self._drawing(batch, len(sampled.rounds))
        with self.clock.phase("sync"):
            attempt = together(self.trainer.strategy, lambda: self._attempt(batch, draw))
        # Before the update: its thread pools stay busy for a while and would slow the belief down.
        tokens = attempt.rollouts.lengths.reshape(len(batch), -1).sum(dim=1).tolist()
        age = iteration - attempt.rollouts.policy_version
        fractions = self.scorer.fraction(attempt.rewards)
        evidence = Evidence.from_rewards(np.array(batch.indices), fractions, age)
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
            completions = self.encoder.decode(rollouts.completion_ids, rollouts.completion_mask)
            scores = drawn.rewards.finish(completions)
            rewards = self.scorer.combine(scores, batch.tasks)
        return Attempt(rollouts, completions, scores, rewards, drawn.rewards.outcomes)

    def _drawing(self, batch: TaskBatch, number: int) -> Callable[[], Drawn]:
        """How the rollouts of a round are come by: they may be under way, or in the checkpoint that was resumed."""
        (ahead, self._ahead), (state, self._resumed) = (self._ahead, None), (self._resumed, None)
        if ahead is not None:
            if (ahead.batch.positions, ahead.batch.indices) != (batch.positions, batch.indices):
                raise RuntimeError(
                    "the train loader served another batch than was drawn ahead. Do not wrap the loader, or set "
                    "max_staleness=0."
                )
            return ahead.result
        saved = rows_of_batch(state, batch, self.num_generations) if self.max_staleness else None
        if saved is not None:
            return lambda: Drawn(saved, self._reward_stream(batch))
        assert self.policy is not None
        policy, version, seeds = self.policy, self.progress.iterations, self._seeds(batch, 0, number)
        return lambda: self._draw(policy, version, batch, seeds)

    def _draw(self, policy: nn.Module, version: int, batch: TaskBatch, seeds: list[int]) -> Drawn:
        """Rolls out, and judges what is completed meanwhile; on any thread."""
        rewards = self._reward_stream(batch)
        try:
            rollouts = self.rollout_by(policy, version, batch.tasks, self.num_generations, seeds, rewards.completed)
        except BaseException:
            rewards.close()
            raise
        return Drawn(rollouts, rewards)

    def _reward_stream(self, batch: TaskBatch) -> RewardStream:
        return RewardStream(self.scorer, batch.tasks, self.num_generations, self.encoder.decode_rows)

    def _seeds(self, batch: TaskBatch, ahead: int, number: int) -> list[int]:
        """Of each task in that round of this iteration, or of one to come."""
        iteration = self.progress.iterations + ahead
        return [derive_seed(self.seed, TRAIN, iteration, number, position) for position in batch.positions]

    def _select(self, draw: Callable[[], list[int]]) -> TaskBatch:
        """This rank's share of one more batch."""
        with self.clock.phase("select"):
            places = self._datamodule.share(draw())
        pool = self._datamodule.require_pool()
        positions, indices = map(list, zip(*places, strict=True))
        return TaskBatch(indices, [pool[index] for index in indices], positions)

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

    # --- one step ahead -----------------------------------------------------------------------------------------

    def begin_ahead(self) -> None:
        """Draws the next batch and starts to roll it out with the policy as it is, if there is to be a next one."""
        planned = self._datamodule.selector.planned_selections
        if not self.max_staleness or (planned is not None and self.progress.iterations + 1 >= planned):
            return
        assert self.policy is not None
        batch = self._select(self._datamodule.select_ahead)
        with self.clock.phase("rollout"):
            self._copy = self._copy or PolicyCopy(self.policy)
            policy, version, seeds = self._copy.refresh(), self.progress.iterations, self._seeds(batch, 1, 0)
            stream, precision = own_stream(self.device), self.trainer.precision_plugin

            def draw() -> Drawn:
                with stream(), precision.forward_context():
                    drawn = self._draw(policy, version, batch, seeds)
                    rollouts = drawn.rollouts
                    if rollouts.logprobs is None:  # the policy will have moved on
                        budget = self.max_tokens_per_microbatch
                        rollouts = record_logprobs(policy, rollouts, self.temperature, budget)
                    return replace(drawn, rollouts=rollouts.to(torch.device("cpu")))

            self._ahead = RolloutsAhead(batch, draw)

    def await_ahead(self) -> float:
        """Waits for what is under way, since an engine serves one policy at a time; the seconds that it took in all."""
        if self._ahead is None:
            return 0.0
        with self.clock.phase("rollout"):
            self._ahead.wait()
        return self._ahead.seconds

    def staleness(self, sampled: Sampled, seconds: float) -> dict[str, float]:
        """Metrics of runs ahead: updates since the first round was sampled, and the seconds that took in all."""
        if not self.max_staleness:
            return {}
        updates = self.progress.iterations - sampled.rounds[0].rollouts.policy_version
        return {"sampling/staleness": float(updates), "rollout_ahead_time": seconds}

    def on_fit_start(self) -> None:
        """Refuses to roll out ahead where there is no whole policy to copy."""
        if self.max_staleness and divides_weights(self.trainer.strategy):
            raise ValueError(
                "max_staleness=1 needs a copy of the policy, and under ZeRO-3 no rank holds it in whole. Use "
                "configs/strategies/zero2.yaml, or set max_staleness=0."
            )

    def on_validation_epoch_start(self) -> None:
        """First waits for rollouts that are under way."""
        self.await_ahead()
        super().on_validation_epoch_start()

    def teardown(self, stage: str) -> None:
        """Lets a thread end that still rolls out."""
        if self._ahead is not None:
            self._ahead.wait()
        super().teardown(stage)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the leftovers of dynamic sampling, and the batch that was rolled out ahead; all ranks take part."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["leftovers"] = None if self.leftovers is None else self.leftovers.state_dict()
        if self.max_staleness:
            checkpoint["ahead"] = ahead_state(self._ahead, self.sampling.pad_token_id)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes over what was set aside, if this run samples likewise and has groups of the same size."""
        super().on_load_checkpoint(checkpoint)
        self._resumed = checkpoint.get("ahead")
        state, self.leftovers = checkpoint.get("leftovers"), None
        if self._trainer is not None and self.trainer.world_size > 1:
            return  # a checkpoint holds leftovers of one rank only; all sample anew
        if state and self.dynamic_sampling and state["rewards"].shape[1] == self.num_generations:
            self.leftovers = Groups.from_state_dict(state)

    def on_train_start(self) -> None:
        """Leftovers of a checkpoint go where the policy is."""
        if self.leftovers is not None:
            self.leftovers = self.leftovers.to(self.device)
