"""Batches of one step, put together."""

# Shapes: K tasks, n_k rollouts of task k, F reward functions.

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bots_lightning.algorithms import RolloutGroups
from bots_lightning.rewards import Outcomes
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training.batch import ScoredBatch

POOL = ProceduralTasks(3).load()


def test_batches_of_unequal_groups_follow_each_other(make_rollouts: Any) -> None:
    def batch(tasks: list[int], counts: list[int], lengths: list[int], outcomes: Outcomes) -> ScoredBatch:
        rows = sum(counts)
        rewards = torch.arange(float(rows))
        group_of_row = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        groups = RolloutGroups(make_rollouts(lengths, [2] * rows), rewards, group_of_row, torch.zeros(len(counts)))
        scores = np.arange(2.0 * rows).reshape(2, rows)
        names = [f"{tasks}{row}" for row in range(rows)]
        return ScoredBatch([POOL[i] for i in tasks], groups, names, scores, scores[0] / 10, outcomes)

    first = batch([0, 2], [1, 2], [3, 5, 4], Outcomes(3, 1, 0))
    second = batch([1], [2], [6, 2], Outcomes(2, 0, 1))
    whole = ScoredBatch.concatenate([first, second], pad_token_id=0)
    assert [task.id for task in whole.tasks] == [POOL[i].id for i in (0, 2, 1)]
    assert whole.groups.group_of_row.tolist() == [0, 1, 1, 2, 2]
    assert whole.groups.rollouts.lengths.tolist() == [3, 5, 4, 6, 2]
    assert whole.groups.rewards.tolist() == [0, 1, 2, 0, 1]
    assert whole.completions == ["[0, 2]0", "[0, 2]1", "[0, 2]2", "[1]0", "[1]1"]
    assert whole.scores.tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 2, 3]]
    assert whole.evidence.tolist() == [0, 0.1, 0.2, 0, 0.1]
    assert whole.outcomes == Outcomes(5, 1, 1)
