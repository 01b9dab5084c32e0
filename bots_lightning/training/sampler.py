"""The sampler: rolls out the tasks that are drawn, scores them, and reports their evidence to the belief."""

# Shapes: K tasks on this rank, n_k rollouts of task k, R = Σ n_k rows.

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any, final

from torch import nn

from bots_lightning.algorithms import RolloutGroups, StepContext
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.options import check_numbers
from bots_lightning.policy import Policy
from bots_lightning.policy.loading import language_model, stop_token_ids
from bots_lightning.rewards import RewardStream, Scorer
from bots_lightning.rollouts import (
    CompactEngine,
    GenerationRequest,
    OnCompleted,
    PromptEncoder,
    RolloutEngine,
    Rollouts,
    SamplingParams,
    derive_seed,
    load_tokenizer,
)
from bots_lightning.training.ahead import MOST_STALE, RolloutsAhead
from bots_lightning.training.batch import ScoredBatch, UnscoredBatch, closed_on_failure, evidence_of, scored
from bots_lightning.training.dynamic_sampling import DynamicSampling
from bots_lightning.training.failures import together
from bots_lightning.training.rounds import further_rounds
from bots_lightning.training.seeds import TRAIN


@final
class Sampler:
    """Rolls out and scores tasks; all randomness is derived from (seed, iteration, place in the draw).

    Args:
        num_generations: rollouts per selected task, on average if `data.allocation` divides them otherwise.
        max_prompt_length: tokens; longer prompts are an error unless `truncate_prompts`.
        max_completion_length: tokens, stop token included.
        truncate_prompts: keep the last tokens of prompts that are too long.
        engine: samples the completions; `CompactEngine` by default.
        dynamic_sampling: replaces groups of equal rewards by further ones; None learns from what was selected.
        max_staleness: 0 is synchronous. S of 1 to 4 rolls out the next S batches while the policy learns from the
            present one (asynchronous rollouts): they are of the policy of S updates ago, which `importance_sampling`
            and the age of the evidence correct for, and from 2 on selection has not seen the evidence of S - 1 batches.
            It pays where rollouts have a device of their own (`ServerEngine`); other engines need S copies of the
            trained weights. Saving and evaluating wait for the rollouts. A run that is continued beyond its planned end
            is synchronous there, S times.

    Attributes:
        encoder: of prompts, once the policy is loaded.
        sampling: how completions are drawn, once the policy is loaded.
        tasks: the data module of the run, once that is set up.
        leftovers: non-degenerate groups that dynamic sampling starts the next iteration with.

    Raises:
        ValueError: an option is out of bounds.
    """

    policy: Policy
    scorer: Scorer
    encoder: PromptEncoder
    sampling: SamplingParams
    tasks: TaskDataModule

    def __init__(
        self,
        num_generations: int = 8,
        max_prompt_length: int = 512,
        max_completion_length: int = 256,
        truncate_prompts: bool = False,
        engine: RolloutEngine | None = None,
        dynamic_sampling: DynamicSampling | None = None,
        max_staleness: int = 0,
    ) -> None:
        check_numbers(1, num_generations=num_generations)
        check_numbers(1, max_prompt_length=max_prompt_length, max_completion_length=max_completion_length)
        check_numbers(0, high=MOST_STALE, max_staleness=max_staleness)
        if dynamic_sampling is not None:
            dynamic_sampling.check(num_generations)
        self.num_generations = num_generations
        self.max_prompt_length, self.max_completion_length = max_prompt_length, max_completion_length
        self.truncate_prompts, self.engine = truncate_prompts, engine or CompactEngine()
        self.dynamic_sampling, self.max_staleness = dynamic_sampling, max_staleness
        self.leftovers: RolloutGroups | None = None
        self._turn = nullcontext() if self.engine.own_weights else Lock()  # others serve one batch at a time

    # --- setup --------------------------------------------------------------------------------------------------

    def attach(self, policy: Policy, scorer: Scorer, seed: int) -> None:
        """Takes what it samples from and scores by.

        Args:
            policy: with its options.
            scorer: of the rewards.
            seed: of all rollouts.
        """
        self.policy, self.scorer, self._seed = policy, scorer, seed
        self._ahead = RolloutsAhead(policy, self.engine, self.max_staleness) if self.max_staleness else None

    def build(self, prompt_room: int | None) -> None:
        """Loads the tokenizer of a policy that is loaded.

        Args:
            prompt_room: tokens of the model's context that are left to a prompt; None for no bound.
        """
        tokenizer = load_tokenizer(self.policy.folder)
        self.encoder = PromptEncoder(tokenizer, self.max_prompt_length, self.truncate_prompts, prompt_room)
        drawn = stop_token_ids(self.policy.model, tokenizer), tokenizer.pad_token_id, self.policy.temperature
        self.sampling = SamplingParams(self.max_completion_length, *drawn)

    # --- rolling out, on any thread -----------------------------------------------------------------------------

    def sync(self, strategy: Any, policy_version: int) -> None:
        """Shows the engine the present policy, whose parameters are gathered; fails on all ranks or on none.

        Args:
            strategy: of the trainer.
            policy_version: how many updates the policy has seen.
        """
        together(strategy, lambda: self.engine.sync(self.policy.model, policy_version))

    def generate(
        self,
        model: nn.Module,
        policy_version: int,
        batch: TaskBatch,
        seeds: Sequence[int],
        on_completed: OnCompleted | None = None,
        temperature: float | None = None,
    ) -> Rollouts:
        """Samples completions of tasks.

        Args:
            model: the policy's, or a copy of it; the engine has this version.
            policy_version: of the model.
            batch: K tasks with their numbers of completions.
            seeds: (K,), one for each task.
            on_completed: see `GenerationRequest`.
            temperature: by default that of the policy.
        """
        sampling = self.sampling if temperature is None else replace(self.sampling, temperature=temperature)
        prompts = self.encoder.encode([task.prompt for task in batch.tasks], [task.id for task in batch.tasks])
        options = policy_version, on_completed, batch.starts
        request = GenerationRequest(language_model(model), prompts, batch.counts, sampling, seeds, *options)
        with self._turn:
            return self.engine.generate(request)

    def _roll_out(self, version: int, batch: TaskBatch, seeds: Sequence[int], model: nn.Module) -> UnscoredBatch:
        """Samples a batch, and scores meanwhile what is completed."""
        rewards = self._reward_stream(batch)
        with closed_on_failure(rewards):
            rollouts = self.generate(model, version, batch, seeds, rewards.completed)
        return UnscoredBatch(rollouts, rewards)

    def _reward_stream(self, batch: TaskBatch) -> RewardStream:
        return RewardStream(self.scorer, batch.tasks, batch.counts, self.encoder.decode_rows)

    def _seeds(self, batch: TaskBatch, iteration: int, number: int) -> list[int]:
        """One seed for each task of the iteration's batch of that number."""
        return [derive_seed(self._seed, TRAIN, iteration, number, position) for position in batch.positions]

    # --- one step -----------------------------------------------------------------------------------------------

    def sample(self, batch: TaskBatch, context: StepContext) -> list[ScoredBatch]:
        """Rolls out the selected batch, and further ones as dynamic sampling asks; all ranks take equally many.

        Args:
            batch: this rank's share of what was drawn.
            context: of the step; the policy's parameters are gathered.
        """
        sampled, dynamic = [self._sample_one(batch, 0, context)], self.dynamic_sampling
        while dynamic is not None and len(sampled) < dynamic.max_batches:
            enough = dynamic.enough(self.leftovers, [one.groups for one in sampled], len(batch))
            if context.on_all_ranks(enough):
                break
            sampled.append(self._sample_one(self._select(context), len(sampled), context))
        return sampled

    def choose(self, sampled: Sequence[ScoredBatch], context: StepContext) -> tuple[RolloutGroups, dict[str, float]]:
        """The groups to learn from, and metrics; keeps leftovers with log-probabilities under this policy.

        Args:
            sampled: all batches of the step.
            context: of the step; the policy's parameters are gathered.
        """
        stale = {} if self._ahead is None else self._ahead.metrics(sampled[0].groups.rollouts, context)
        if self.dynamic_sampling is None:
            return sampled[0].groups, stale
        tasks, groups_of_each = len(sampled[0].tasks), [one.groups for one in sampled]
        options = tasks, context.progress.iterations, self.sampling.pad_token_id
        groups, leftovers, metrics = self.dynamic_sampling.compose(self.leftovers, groups_of_each, *options)
        if leftovers is not None:
            with context.clock.phase("logprobs", context.device):
                leftovers = replace(leftovers, rollouts=self.policy.recorded(leftovers.rollouts))
        self.leftovers = leftovers
        return groups, metrics | stale

    def begin_next(self, context: StepContext) -> None:
        """Draws what comes next and starts to roll it out with the present policy, where rollouts are asynchronous.

        Args:
            context: of the present step.
        """
        if self._ahead is None:
            self.engine.release()
            return
        planned, version = self.tasks.selector.planned_selections or sys.maxsize, context.progress.iterations
        for coming in range(version + 1 + len(self.tasks.draws), min(version + 1 + self.max_staleness, planned)):
            batch = self._select(context, ahead=True)
            roll_out = partial(self._roll_out, version, batch, self._seeds(batch, coming, 0))
            with context.clock.phase("rollout"):
                self._ahead.begin(batch, roll_out, context)

    def wait(self, batches: int | None = None) -> float:
        """Waits for so many of the batches that are under way, or all; the seconds that the first took in all."""
        return 0.0 if self._ahead is None else self._ahead.wait(batches)

    def _select(self, context: StepContext, ahead: bool = False) -> TaskBatch:
        """This rank's share of one more batch."""
        with context.clock.phase("select"):
            return TaskBatch.of(self.tasks.share(self.tasks.select(ahead)), self.tasks.require_pool())

    def _sample_one(self, batch: TaskBatch, number: int, context: StepContext) -> ScoredBatch:
        """Rolls out and scores the step's batch of that number, in all of its rounds, and reports its evidence."""
        ahead = self._ahead if number == 0 else None
        begun = ahead and ahead.rollouts_of(batch, self._reward_stream)
        roll_out = begun or self._present_rollouts(batch, number, context)

        def again(more: TaskBatch) -> ScoredBatch:
            return self._score(more, self._present_rollouts(more, number, context), context)

        def in_rounds() -> ScoredBatch:
            first, pad_token_id = self._score(batch, roll_out, context), self.sampling.pad_token_id
            return further_rounds(batch, first, self.tasks, again, context, pad_token_id)

        with context.clock.phase("sync"):
            result = together(context.strategy, in_rounds)
        if ahead is not None:
            ahead.taken()
        self._observe(batch, result, context)
        return result

    def _present_rollouts(self, batch: TaskBatch, number: int, context: StepContext) -> Callable[[], UnscoredBatch]:
        """Samples a batch with the present policy, when called."""
        version = context.progress.iterations
        return partial(self._roll_out, version, batch, self._seeds(batch, version, number), self.policy.model)

    def _score(self, batch: TaskBatch, roll_out: Callable[[], UnscoredBatch], context: StepContext) -> ScoredBatch:
        """What may fail on one rank alone: engines and reward functions depend on more than this program."""
        with context.clock.phase("rollout"):
            unscored = roll_out()
        with context.clock.phase("reward"):
            return scored(batch, unscored, self.scorer, self.encoder.decode_rows, context)

    def _observe(self, batch: TaskBatch, result: ScoredBatch, context: StepContext) -> None:
        """Reports evidence and lengths. Before the update: its thread pools stay busy and would slow the belief."""
        evidence, tokens = evidence_of(batch, result, context.progress.iterations, self.num_generations)
        with context.clock.phase("sync"):
            self.tasks.observe(evidence, tokens)
        context.clock.move(self.tasks.observe_seconds, "sync", "observe")

    # --- the end of a run, and checkpoints ----------------------------------------------------------------------

    def close(self) -> None:
        """Ends what is under way soon and releases the copies of the policy; returns at once."""
        if self._ahead is not None:
            self._ahead.close()

    def state_dict(self) -> dict[str, Any]:
        """The leftovers of dynamic sampling, and the batches that are rolled out ahead; all ranks call it."""
        ahead = {} if self._ahead is None else {"ahead": self._ahead.state_dict(self.sampling.pad_token_id)}
        return {"leftovers": None if self.leftovers is None else self.leftovers.state_dict()} | ahead

    def load_state_dict(self, state: dict[str, Any], world_size: int) -> None:
        """Restores both, as far as this run can use them.

        Args:
            state: of `state_dict`.
            world_size: ranks of this run. A checkpoint holds the leftovers of one rank only: several sample all anew.
        """
        leftovers, self.leftovers = state.get("leftovers"), None
        if leftovers and self.dynamic_sampling and world_size == 1:
            self.leftovers = RolloutGroups.from_state_dict(leftovers)
        self.close()
        if self._ahead is not None:
            self._ahead.load_state_dict(state.get("ahead"))
