"""What a step tells loggers and callbacks of all that it has rolled out."""

# Shapes: K groups, R rows on this rank, F reward functions.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bots_lightning.algorithms import StepContext
from bots_lightning.training.batch import ScoredBatch
from bots_lightning.training.metrics import reward_metrics, rollout_metrics


def batch_metrics(batch: ScoredBatch, names: Sequence[str], context: StepContext) -> dict[str, Any]:
    """Metrics of all that all ranks have rolled out, dropped groups included.

    Args:
        batch: all batches of the step as one.
        names: of the F reward functions.
        context: of the step; all ranks take part.
    """
    rollouts = batch.groups.rollouts
    lengths, finished, rewards = map(context.gather_rows, (rollouts.lengths, rollouts.finished, batch.groups.rewards))
    scores = context.gather_rows(torch.as_tensor(batch.scores, device=context.device).transpose(0, 1)).transpose(0, 1)
    of_rewards = reward_metrics(names, scores.cpu().numpy())
    return of_rewards | rollout_metrics(lengths, finished, rewards) | batch.outcomes.fractions()


def count(batch: ScoredBatch, context: StepContext) -> int:
    """Adds a step to the run's counters.

    Args:
        batch: all batches of the step as one.
        context: of the step; all ranks take part.

    Returns:
        the tokens that all ranks have generated.
    """
    mine = torch.tensor([len(batch.completions), int(batch.groups.rollouts.lengths.sum())], device=context.device)
    rollouts, tokens = context.gather(mine).reshape(-1, 2).sum(dim=0).tolist()
    context.progress.iterations += 1
    context.progress.rollouts += rollouts
    context.progress.generated_tokens += tokens
    return tokens


def step_output(batch: ScoredBatch, loss: float, timings: dict[str, float]) -> dict[str, Any]:
    """What `training_step` returns for callbacks to read.

    Args:
        batch: all batches of the step as one.
        loss: mean of the optimizer steps.
        timings: seconds by phase.

    Returns:
        `loss`; `tasks` (K); `group_of_row` (R,) int64, the position of each row's task; `rewards` (R,); `evidence` (R,)
        in [0, 1], what the belief counts; `completions` (R texts); `finished` (R,) bool, False where one was cut;
        `num_tokens`; `timings` in seconds.
    """
    groups = batch.groups
    return {
        "loss": torch.tensor(loss),
        "tasks": batch.tasks,
        "group_of_row": groups.group_of_row,
        "rewards": groups.rewards,
        "evidence": torch.as_tensor(batch.evidence, dtype=torch.float32, device=groups.rewards.device),
        "completions": batch.completions,
        "finished": groups.rollouts.finished,
        "num_tokens": int(groups.rollouts.lengths.sum()),
        "timings": timings,
    }
