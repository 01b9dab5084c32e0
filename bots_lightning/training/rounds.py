"""Rounds of a step: further rollouts of its tasks, as the allocation asks for them when the first are scored."""

# Shapes: K tasks on this rank, R rows of all rounds.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bots_lightning.algorithms import RolloutGroups, StepContext
from bots_lightning.allocation import TriedTasks
from bots_lightning.beliefs import Evidence
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.data.draws import believed
from bots_lightning.evaluation import mixed_groups
from bots_lightning.training.batch import ScoredBatch


def further_rounds(
    batch: TaskBatch,
    first: ScoredBatch,
    tasks: TaskDataModule,
    sample: Callable[[TaskBatch], ScoredBatch],
    context: StepContext,
    pad_token_id: int,
) -> ScoredBatch:
    """Rolls out tasks again as long as the allocation asks for it; without collectives.

    Args:
        batch: K tasks, of the first round.
        first: their scored rollouts.
        tasks: the data module of the run.
        sample: rolls out and scores a batch.
        context: of the step.
        pad_token_id: fills up token ids where rounds differ in length.

    Returns:
        the K tasks with the rollouts of all rounds; `first` itself if there are no others.
    """
    result = first
    while True:
        with context.clock.phase("select"):
            again = next_round(batch, result, tasks)
        if again is None:
            return result
        result = joined(result, sample(again), batch, again, pad_token_id)


def next_round(batch: TaskBatch, tried: ScoredBatch, tasks: TaskDataModule) -> TaskBatch | None:
    """The tasks that get further rollouts, by an allocation that is sequential.

    Ranks decide by themselves: each has as many rollouts as tasks, times `num_generations`. So no rank waits for
    another between rounds, and all have about as much to do.

    Args:
        batch: K tasks, of the first round.
        tried: their rollouts so far.
        tasks: the data module of the run, whose selector has not seen those.

    Returns:
        some of the tasks in the same places; None if none gets any.

    Raises:
        ValueError: the allocation gives what is no number of rollouts.
    """
    budget = len(batch) * tasks.num_generations - len(tried.completions)
    if not tasks.allocation.sequential or budget <= 0:
        return None
    counts = tried.counts
    more = tasks.allocation.more(_seen(batch, tried, tasks), budget)
    if more.shape != counts.shape or more.dtype.kind not in "iu" or (more < 0).any() or more.sum() > budget:
        raise ValueError(
            f"{type(tasks.allocation).__name__}.more gave {more.tolist()} for {len(batch)} tasks; expected a whole "
            f"number of rollouts for each, at least 0, and no more than {budget} together."
        )
    chosen = np.flatnonzero(more).tolist()
    if not chosen:
        return None
    return TaskBatch(
        [batch.indices[at] for at in chosen],
        [batch.tasks[at] for at in chosen],
        [batch.positions[at] for at in chosen],
        more[chosen].tolist(),
        starts=counts[chosen].tolist(),
    )


def _seen(batch: TaskBatch, tried: ScoredBatch, tasks: TaskDataModule) -> TriedTasks:
    """What is believed of the tasks after these rollouts."""
    indices, groups = np.array(batch.indices), tried.groups
    evidence = Evidence.from_rewards(indices, tried.evidence, tried.counts)
    spread, (alpha, beta) = tasks.selector.dispersion(indices), believed(tasks.selector, indices)
    failures = evidence.counts - evidence.successes
    with np.errstate(invalid="ignore"):
        pass_rates = evidence.successes / evidence.counts
    mixed = mixed_groups(groups.rewards, groups.group_of_row).cpu().numpy()
    updated = alpha + evidence.successes / spread, beta + failures / spread
    return TriedTasks(*updated, tried.counts, pass_rates, mixed)


def joined(first: ScoredBatch, more: ScoredBatch, batch: TaskBatch, again: TaskBatch, pad_token_id: int) -> ScoredBatch:
    """The rollouts of a further round put behind those that their tasks have had before.

    Args:
        first: K tasks with their rollouts so far.
        more: the further rollouts.
        batch: the K tasks.
        again: the tasks that those are of.
        pad_token_id: fills up token ids where rounds differ in length.

    Returns:
        the K tasks with all of their rollouts.
    """
    places, device = {position: at for at, position in enumerate(batch.positions)}, first.groups.rewards.device
    task_of_group = torch.tensor([places[position] for position in again.positions], device=device)
    task_of_row = torch.cat([first.groups.group_of_row, task_of_group[more.groups.group_of_row]])
    number = int(first.groups.round_of_row.max()) + 1
    round_of_row = torch.cat([first.groups.round_of_row, torch.full_like(more.groups.group_of_row, number)])
    both, order = ScoredBatch.concatenate([first, more], pad_token_id), torch.argsort(task_of_row, stable=True)
    rollouts, rewards = both.groups.rollouts.rows(order), both.groups.rewards[order]
    rows = order.tolist()
    return ScoredBatch(
        first.tasks,
        RolloutGroups(rollouts, rewards, task_of_row[order], first.groups.iterations, round_of_row[order]),
        [both.completions[row] for row in rows],
        both.scores[:, rows],
        both.evidence[rows],
        both.outcomes,
    )
