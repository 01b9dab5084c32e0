"""Learning online: what every algorithm that learns from its own rollouts shares."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bots_lightning.algorithms.checks import check_ranks_agree, check_trainer
from bots_lightning.algorithms.dynamic_sampling import DynamicSampling
from bots_lightning.algorithms.failures import together
from bots_lightning.algorithms.groups import Groups, Sampled
from bots_lightning.algorithms.module import TRAIN, PolicyModule
from bots_lightning.algorithms.options import check_numbers
from bots_lightning.algorithms.recording import record_logprobs
from bots_lightning.algorithms.schedule import total_optimizer_steps
from bots_lightning.algorithms.step_metrics import StepClock, reward_metrics, rollout_metrics, timing_metrics
from bots_lightning.beliefs import Evidence
from bots_lightning.data import TaskBatch
from bots_lightning.rewards import Outcomes
from bots_lightning.rollouts import Rollouts, derive_seed
from bots_lightning.strategies import whole_model
from bots_lightning.tasks import Task, TaskPool

Attempt = tuple[Rollouts, list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]


class OnlineModule(PolicyModule):
    """Rolls out the selected tasks, scores them, reports the evidence and updates the policy.

    Subclasses implement `update`, under manual optimization. The belief is updated inside `training_step`, so that
    every checkpoint holds a policy and a belief of the same step.

    Args:
        max_tokens_per_microbatch: budget of one forward and backward pass in tokens, prompts and padding included;
            None takes the whole batch at once.
        check_ranks_every: iterations after which ranks compare what they believe, and stop if it differs.
        dynamic_sampling: replaces groups of equal rewards by further ones; None learns from what was selected.
        **kwargs: see `PolicyModule`.
    """

    def __init__(
        self,
        *args: Any,
        max_tokens_per_microbatch: int | None = None,
        check_ranks_every: int = 10,
        dynamic_sampling: DynamicSampling | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(1, max_tokens_per_microbatch=max_tokens_per_microbatch, check_ranks_every=check_ranks_every)
        if dynamic_sampling is not None and self.num_generations < 2:
            raise ValueError(
                f"dynamic_sampling looks for groups whose rewards differ; with num_generations={self.num_generations} "
                "there are none. Raise num_generations or leave dynamic_sampling out."
            )
        self.automatic_optimization = False
        self.max_tokens_per_microbatch = max_tokens_per_microbatch
        self.check_ranks_every = check_ranks_every
        self.dynamic_sampling = dynamic_sampling
        self.leftovers: Groups | None = None  # mixed groups that the next iteration starts with
        self.clock = StepClock()  # of the present step

    @abstractmethod
    def update(self, rollouts: Rollouts, rewards: Tensor) -> dict[str, float]:
        """Takes the optimizer steps of one iteration.

        Args:
            rollouts: R = B·G rows.
            rewards: (B, G) float, NaN where there is none.

        Returns:
            metrics to log; `loss` among them.
        """

    @property
    def optimizer_steps_per_iteration(self) -> int:
        """How many optimizer steps `update` takes."""
        return 1

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

    # --- one iteration ------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Refuses what would fail or go wrong silently hours later."""
        check_trainer(self.trainer)
        optimizer_steps = total_optimizer_steps(self.trainer, self.optimizer_steps_per_iteration)
        self._datamodule.selector.planned_selections = (
            None if optimizer_steps is None else optimizer_steps // self.optimizer_steps_per_iteration
        )
        for pool in (self._datamodule.require_pool(), *self._datamodule.eval_pools.values()):
            self._check_prompts(pool)

    def _check_prompts(self, pool: TaskPool) -> None:
        for task in (pool[i] for i in range(len(pool))):
            self.encoder.encode([task.prompt], [task.id])

    def training_step(self, batch: TaskBatch, batch_idx: int) -> dict[str, Any]:
        """Rolls out, scores, updates the belief and the policy.

        Returns:
            what callbacks read, on all B' groups rolled out, B' = B without dynamic sampling: `loss`; `tasks`;
            `rewards` (B', G); `completions` (B'·G strings); `num_tokens`; `timings` in seconds: of each of `PHASES`,
            and `step` for all of them but `select`.
        """
        self.clock = StepClock()
        self.clock.seconds["select"] = self._datamodule.select_seconds  # by the loader, just before
        self.scorer.outcomes = Outcomes()
        with self.whole_model():
            with self.clock.phase("sync"):
                self.sync_engine()
            sampled = self._sample(batch)
            groups, metrics = self._choose(sampled, len(batch))
        metrics |= self.update(groups.rollouts, groups.rewards)
        everything = Groups.concatenate(sampled.rounds, self.sampling.pad_token_id)
        num_tokens = int(everything.rollouts.lengths.sum())
        of_all_ranks = self._count(len(everything.rollouts), num_tokens)
        metrics |= self._figures(everything, np.concatenate(sampled.scores, axis=1))
        timings = self.clock.stop()
        self._log_step(metrics | timing_metrics(timings, of_all_ranks))
        if self.progress.iterations % self.check_ranks_every == 0:
            check_ranks_agree(self._datamodule.fingerprint)
        return {
            "loss": torch.tensor(metrics["loss"]),
            "tasks": sampled.tasks,
            "rewards": everything.rewards,
            "completions": sampled.completions,
            "num_tokens": num_tokens,
            "timings": timings | {"step": sum(timings.values()) - timings["select"]},
        }

    def _figures(self, groups: Groups, scores: npt.NDArray[np.float64]) -> dict[str, Any]:
        """Of all that all ranks have rolled out, dropped groups included."""
        lengths, finished, rewards = (
            self._everyones(rows) for rows in (groups.rollouts.lengths, groups.rollouts.finished, groups.rewards)
        )
        scored = self._everyones(torch.as_tensor(scores, device=self.device).transpose(0, 1)).transpose(0, 1)
        of_rewards = reward_metrics(self.scorer.names, scored.cpu().numpy())
        return of_rewards | rollout_metrics(lengths, finished, rewards) | self.scorer.outcomes.fractions()

    def _everyones(self, rows: Tensor) -> Tensor:
        """The rows of all ranks."""
        return rows if self.gather is None else self.gather(rows).flatten(0, 1)

    def _sample(self, batch: TaskBatch) -> Sampled:
        """Rolls out the selected batch, and further ones as dynamic sampling asks; all ranks take as many rounds."""
        sampled, dynamic = Sampled(), self.dynamic_sampling
        self._sample_round(batch, sampled)
        while dynamic is not None and len(sampled.rounds) < dynamic.max_batches:
            enough = dynamic.enough(self.leftovers, sampled.rounds, len(batch))
            if self.trainer.strategy.reduce_boolean_decision(enough, all=True):
                break
            self._sample_round(self._select(), sampled)
        return sampled

    def _sample_round(self, batch: TaskBatch, sampled: Sampled) -> None:
        """Rolls out and scores one batch, and reports its evidence."""
        iteration, number = self.progress.iterations, len(sampled.rounds)
        seeds = [derive_seed(self.seed, TRAIN, iteration, number, position) for position in batch.positions]
        with self.clock.phase("sync"):
            rollouts, completions, scores, rewards = together(
                self.trainer.strategy, lambda: self._attempt(batch.tasks, seeds)
            )
        # Before the update: its thread pools stay busy for a while and would slow the belief down.
        tokens = rollouts.lengths.reshape(len(batch), -1).sum(dim=1).tolist()
        evidence = self._evidence(batch.indices, rewards)
        with self.clock.phase("sync"):
            self._datamodule.observe(evidence, dict(zip(batch.indices, tokens, strict=True)))
        self.clock.move(self._datamodule.observe_seconds, "sync", "observe")
        reward_tensor = torch.as_tensor(rewards, dtype=torch.float32, device=self.device)
        iterations = torch.full((len(batch),), iteration, device=self.device)
        sampled.add(batch.tasks, completions, scores, Groups(rollouts, reward_tensor, iterations))

    def _attempt(self, tasks: list[Task], seeds: list[int]) -> Attempt:
        """What may fail on one rank alone: engines and reward functions depend on more than this program."""
        with self.clock.phase("rollout"):
            rollouts = self.rollout(tasks, self.num_generations, seeds)
        with self.clock.phase("reward"):
            completions = self.encoder.decode(rollouts.completion_ids, rollouts.completion_mask)
            scores = self.scorer.scores(tasks, completions)
            rewards = self.scorer.combine(scores, tasks)
        return rollouts, completions, scores, rewards

    def _select(self) -> TaskBatch:
        """This rank's share of one more batch."""
        with self.clock.phase("select"):
            places = self._datamodule.share(self._datamodule.select())
        pool = self._datamodule.require_pool()
        positions, indices = map(list, zip(*places, strict=True))
        return TaskBatch(indices, [pool[index] for index in indices], positions)

    def _choose(self, sampled: Sampled, size: int) -> tuple[Groups, dict[str, float]]:
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

    def _evidence(self, indices: list[int], rewards: npt.NDArray[np.float64]) -> Evidence:
        return Evidence.from_rewards(np.array(indices), self.scorer.fraction(rewards))

    def _count(self, rollouts: int, tokens: int) -> int:
        """The tokens of all ranks."""
        gathered = self._gather(torch.tensor([rollouts, tokens], device=self.device))
        all_rollouts, all_tokens = gathered.reshape(-1, 2).sum(dim=0).tolist()
        self.progress.iterations += 1
        self.progress.rollouts += all_rollouts
        self.progress.generated_tokens += all_tokens
        return all_tokens

    def _log_step(self, metrics: dict[str, Any]) -> None:
        """Means over ranks."""
        metrics["step"] = float(self.progress.iterations)  # Lightning takes the loggers' step from here
        self.log_dict(metrics, batch_size=1, sync_dist=self.trainer.world_size > 1)
        spent = {
            "num_tokens": float(self.progress.generated_tokens),
            "num_rollouts": float(self.progress.rollouts),
        }
        self.log_dict(spent | self._datamodule.selector.metrics(), batch_size=1)

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
