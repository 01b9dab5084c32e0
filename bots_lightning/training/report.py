"""What a step tells loggers and callbacks of all that it has rolled out."""

# Shapes: K groups, R rows on this rank, F reward functions.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from bots_lightning.algorithms import Progress, StepContext
from bots_lightning.data import TaskBatch
from bots_lightning.evaluation import MetricsCSV, log_step_metrics
from bots_lightning.training.batch import ScoredBatch
from bots_lightning.training.evaluation import Evaluation, Sampled
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
    return int(tokens)


def step_output(batch: ScoredBatch, names: Sequence[str], loss: float, timings: dict[str, float]) -> dict[str, Any]:
    """What `training_step` returns for callbacks to read.

    Args:
        batch: all batches of the step as one.
        names: of the F reward functions.
        loss: mean of the optimizer steps.
        timings: seconds by phase.

    Returns:
        `loss`; `tasks` (K); `group_of_row` (R,) int64, the position of each row's task; `rewards` (R,); `evidence` (R,)
        in [0, 1], what the belief counts; `scores`, (R,) of each reward function by its name, NaN where there is none;
        `completions` (R texts); `finished` (R,) bool, False where one was cut; `num_tokens`; `timings` in seconds.
    """
    groups = batch.groups
    return {
        "loss": torch.tensor(loss),
        "tasks": batch.tasks,
        "group_of_row": groups.group_of_row,
        "rewards": groups.rewards,
        "evidence": torch.as_tensor(batch.evidence, dtype=torch.float32, device=groups.rewards.device),
        "scores": dict(zip(names, batch.scores, strict=True)),
        "completions": batch.completions,
        "finished": groups.rollouts.finished,
        "num_tokens": int(groups.rollouts.lengths.sum()),
        "timings": timings,
    }


def predict_output(batch: TaskBatch, sampled: Sampled) -> dict[str, Any]:
    """What `predict_step` returns for callbacks to write.

    Args:
        batch: K tasks with their numbers of rollouts.
        sampled: their R rollouts.

    Returns:
        `task_ids` (K), `counts` (K), `completions` (R), `rewards`, `evidence` and `finished` (R,), and `scores`, (R,)
        of each reward function by its name.
    """
    named = {"task_ids": [task.id for task in batch.tasks], "counts": list(batch.counts)}
    columns = {name: torch.as_tensor(getattr(sampled, name)) for name in ("rewards", "evidence", "finished")}
    return named | columns | {"completions": sampled.completions, "scores": sampled.scores}


def log_step(
    module: LightningModule, metrics: dict[str, Any], progress: Progress, of_selector: dict[str, float]
) -> None:
    """Logs a step: means over ranks, and the run's counters.

    Args:
        module: of the run.
        metrics: of this rank, or of all; of the same names on all ranks.
        progress: counters of the run.
        of_selector: metrics that are the same on all ranks.
    """
    values = [float(value) for value in metrics.values()]
    if module.trainer.world_size > 1:
        mine = torch.tensor(values, device=module.device)
        values = cast(torch.Tensor, module.all_gather(mine)).mean(dim=0).tolist()
    spent = {"num_tokens": float(progress.generated_tokens), "num_rollouts": float(progress.rollouts)}
    logged = dict(zip(metrics, values, strict=True)) | spent | of_selector
    log_step_metrics(module.trainer, logged, progress.iterations)
    module.log("step", float(progress.iterations), batch_size=1)  # by which loggers file what callbacks log of the step


def log_outside_the_loop(loggers: Sequence[Logger], evaluation: Evaluation, iteration: int) -> None:
    """Logs an evaluation where Lightning would drop its scores: in sanity checks and in `on_train_end`.

    Args:
        loggers: of the trainer.
        evaluation: whose rollouts are all counted.
        iteration: of the run.
    """
    scores = evaluation.finish(iteration)
    for logger in loggers:
        logger.log_metrics(scores, step=iteration)


def continue_curves(trainer: Trainer, iteration: int) -> None:
    """Has loggers with files of their own go on from an iteration.

    Args:
        trainer: with its loggers.
        iteration: the last that is kept.
    """
    for curves in _curves(trainer):
        curves.continue_after(iteration)


def flush_curves(trainer: Trainer) -> None:
    """Writes what loggers with files of their own hold back."""
    for curves in _curves(trainer):
        curves.flush()


def _curves(trainer: Trainer) -> list[MetricsCSV]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]


def forget_between_steps(trainer: Any, between_steps: list[Callable[[], None]]) -> Callable[[], None]:
    """Forgets a step's metrics before the next: Lightning would repeat those that this does not have, of absent groups.

    Args:
        trainer: of the run.
        between_steps: functions that are called before each draw; one is added.

    Returns:
        removes it from there.
    """

    def forget() -> None:
        for metric in trainer.fit_loop.epoch_loop._results.values():
            if metric.meta.on_step and not metric.meta.on_epoch:
                metric.reset()

    between_steps.append(forget)
    return lambda: between_steps.remove(forget)
