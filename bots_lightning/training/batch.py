"""One batch of tasks on its way through a step: rolled out, then scored."""

# Shapes: K tasks on this rank, n_k rollouts of task k, R = Σ n_k rows, F reward functions.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bots_lightning.algorithms import RolloutGroups, StepContext
from bots_lightning.beliefs import Evidence
from bots_lightning.data import TaskBatch
from bots_lightning.rewards import Outcomes, RewardStream, Scorer, tasks_of_rows
from bots_lightning.rollouts import Rollouts
from bots_lightning.rollouts.segments import groups_of_rows
from bots_lightning.tasks import Task


@dataclass(frozen=True)
class UnscoredBatch:
    """The rollouts of one batch of tasks, and their scores as far as these are known.

    Attributes:
        rollouts: R rows.
        rewards: scores completed tasks while others are still sampled, and the rest when it is finished.
    """

    rollouts: Rollouts
    rewards: RewardStream


@dataclass(frozen=True)
class ScoredBatch:
    """A batch of tasks, rolled out and scored on this rank.

    Attributes:
        tasks: K of them, one per group.
        groups: R rollouts with their rewards.
        completions: R texts.
        scores: (F, R) float, what each reward function returned.
        evidence: (R,) float in [0, 1], how far each completion solves its task, see `Scorer.evidence`.
        outcomes: how the completions were graded, where a reward function counts that.
    """

    tasks: list[Task]
    groups: RolloutGroups
    completions: list[str]
    scores: npt.NDArray[np.float64]
    evidence: npt.NDArray[np.float64]
    outcomes: Outcomes

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(K,) rollouts of each task."""
        return torch.bincount(self.groups.group_of_row).cpu().numpy()

    @staticmethod
    def concatenate(batches: Sequence[ScoredBatch], pad_token_id: int) -> ScoredBatch:
        """All batches of one step as one.

        Args:
            batches: one or more.
            pad_token_id: fills up token ids where batches differ in length.
        """
        outcomes = Outcomes()
        for batch in batches:
            outcomes += batch.outcomes
        return ScoredBatch(
            [task for batch in batches for task in batch.tasks],
            RolloutGroups.concatenate([batch.groups for batch in batches], pad_token_id),
            [completion for batch in batches for completion in batch.completions],
            np.concatenate([batch.scores for batch in batches], axis=1),
            np.concatenate([batch.evidence for batch in batches]),
            outcomes,
        )


def scored(
    batch: TaskBatch,
    unscored: UnscoredBatch,
    scorer: Scorer,
    decode: Callable[[list[list[int]]], list[str]],
    context: StepContext,
) -> ScoredBatch:
    """Scores the rollouts of a batch, as far as that is not done yet.

    Args:
        batch: K tasks with their numbers of rollouts.
        unscored: their R rollouts.
        scorer: of the rewards.
        decode: token ids of completions to their texts.
        context: of the step.
    """
    rollouts, rows = unscored.rollouts.to(context.device), tasks_of_rows(batch.tasks, batch.counts)
    tokens = rollouts.completion_lists()
    completions = decode(tokens)
    scores = unscored.rewards.finish(completions, tokens)
    rewards = scorer.combine(scores, rows)
    evidence = scorer.evidence(scores, rewards, rows)
    groups = RolloutGroups(
        rollouts,
        torch.as_tensor(rewards, dtype=torch.float32, device=context.device),
        groups_of_rows(batch.counts, context.device),
        torch.full((len(batch),), context.progress.iterations, device=context.device),
    )
    return ScoredBatch(batch.tasks, groups, completions, scores, evidence, unscored.rewards.outcomes)


def evidence_of(
    batch: TaskBatch, result: ScoredBatch, iteration: int, num_generations: int
) -> tuple[Evidence, dict[int, float]]:
    """What a batch has shown.

    Args:
        batch: K tasks.
        result: their scored rollouts, of all rounds.
        iteration: the present one.
        num_generations: the usual number of rollouts.

    Returns:
        success counts of the tasks; and tokens that `num_generations` rollouts of each task would have, by its index.
    """
    rollouts, counts = result.groups.rollouts, result.counts
    age = iteration - rollouts.policy_version
    evidence = Evidence.from_rewards(np.array(batch.indices), result.evidence, counts, age)
    totals = np.add.reduceat(rollouts.lengths.cpu().numpy(), np.cumsum(counts) - counts)
    tokens = (totals * num_generations / counts).tolist()
    return evidence, dict(zip(batch.indices, tokens, strict=True))


@contextmanager
def closed_on_failure(rewards: RewardStream) -> Iterator[None]:
    """Ends the grading of a batch whose rollouts fail inside the block."""
    try:
        yield
    except BaseException:  # raised again; Ctrl-C too must not leave graders at work
        rewards.close()
        raise
