"""One batch of tasks on its way through a step: rolled out, then scored."""

# Shapes: K tasks on this rank, n_k rollouts of task k, R = Σ n_k rows, F reward functions.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bots_lightning.algorithms.groups import RolloutGroups
from bots_lightning.rewards import Outcomes, RewardStream
from bots_lightning.rollouts import Rollouts
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


@contextmanager
def closed_on_failure(rewards: RewardStream) -> Iterator[None]:
    """Ends the grading of a batch whose rollouts fail inside the block."""
    try:
        yield
    except BaseException:  # raised again; Ctrl-C too must not leave graders at work
        rewards.close()
        raise
