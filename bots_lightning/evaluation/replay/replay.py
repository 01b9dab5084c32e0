"""Replay: steps selectors through the record of a real run, and scores what they chose and predicted."""

# Shapes: N tasks, E recorded epochs, B tasks per step, T steps.

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from bots_lightning.beliefs import Evidence
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.evaluation.replay.forecasts import Forecasts, Scores
from bots_lightning.evaluation.replay.trajectories import IntArray, Trajectories
from bots_lightning.evaluation.scores.effective_tasks import effective_number
from bots_lightning.evaluation.scores.forgetting import Forgetting, mean_loss
from bots_lightning.options import check_numbers
from bots_lightning.selection import TaskSelector

POOL_SCORES = ("rmse", "log_predictive", "coverage_90")


@dataclass(frozen=True)
class ReplaySettings:
    """How a record is stepped through.

    Attributes:
        batch_size: B, tasks per selection.
        selections_per_epoch: how often a selector chooses among the counts of one recorded epoch.
        weak_from_first_epoch: the first epoch serves as the weaker reference; the replay starts at the second one,
            also for selectors without references, so that all see the same record.

    Raises:
        ValueError: a number is out of range.
    """

    batch_size: int = 16
    selections_per_epoch: int = 4
    weak_from_first_epoch: bool = True

    def __post_init__(self) -> None:
        check_numbers(1, batch_size=self.batch_size, selections_per_epoch=self.selections_per_epoch)

    def epochs(self, record: Trajectories) -> range:
        """The recorded epochs that are replayed.

        Raises:
            ValueError: the record is too short.
        """
        first = int(self.weak_from_first_epoch)
        if record.num_epochs <= first:
            raise ValueError(
                f"the record has {record.num_epochs} epoch and the first one serves as the weak reference, so that "
                "none is left to replay. Record more epochs, or replay with `--weak none`."
            )
        return range(first, record.num_epochs)


def replay_once(
    record: Trajectories,
    selector: TaskSelector,
    seed: int,
    settings: ReplaySettings,
    on_step: Callable[[], object] = lambda: None,
) -> Scores:
    """Steps a copy of a selector through a record: select B tasks, score, observe their recorded counts.

    The record does not react, so this scores beliefs and choices, not learning. Belief scores are prequential: the
    forecast is taken before the step's counts are observed. Several selections share an epoch's counts, though: a
    task chosen twice within an epoch shows the same count again. The scores `…_all` avoid that: they are over all N
    tasks at the first selection of each epoch, before any of its counts was observed.

    Args:
        record: of a run.
        selector: as built for training; it is copied, not changed.
        seed: of the selector's draws.
        settings: how to step.
        on_step: called after each step.

    Returns:
        `effective_task_ratio`, over the run and its `first_quarter` and `last_quarter`; the scores of the forecasts,
        none where there are none; `distinct_tasks`, `effective_tasks` and `largest_reuse`.

    Raises:
        ValueError: the selector returns anything but B different tasks of the record, or lacks a reference.
    """
    selector = deepcopy(selector)  # `setup` may come only once
    selector.planned_selections = len(settings.epochs(record)) * settings.selections_per_epoch
    selector.setup(record.features(settings.weak_from_first_epoch), seed=seed)
    everything, uses = np.arange(len(record)), np.zeros(len(record), dtype=np.int64)
    ratios: list[float] = []
    spent = 0
    batch_forecasts, pool_forecasts = Forecasts(), Forecasts()
    for epoch in settings.epochs(record):
        present = record.successes[:, epoch]
        pool_forecasts.add(selector, everything, present, record.rollouts)
        for _ in range(settings.selections_per_epoch):
            chosen = _checked(selector.select(settings.batch_size), settings.batch_size, len(record), selector)
            successes, rollouts = present[chosen], record.rollouts[chosen]
            batch_forecasts.add(selector, chosen, successes, rollouts)
            ratios.append(float(((successes > 0) & (successes < rollouts)).mean()))
            spent += int(rollouts.sum())
            uses[chosen] += 1
            selector.observe(Evidence(chosen.copy(), successes.astype(float), rollouts.astype(float)))
            on_step()
    over_pool = pool_forecasts.scores()
    return {
        **_effective_task_ratios(np.array(ratios)),
        "mixed_per_1000_rollouts": 1000 * settings.batch_size * sum(ratios) / spent,
        **batch_forecasts.scores(),
        **{f"{name}_all": over_pool[name] for name in POOL_SCORES},
        "distinct_tasks": float((uses > 0).sum()),
        "seen_fraction": float((uses > 0).mean()),
        "effective_tasks": effective_number(uses),
        "largest_reuse": float(uses.max()),
    }


def replay(
    record: Trajectories,
    selectors: Mapping[str, TaskSelector],
    seeds: int = 5,
    settings: ReplaySettings | None = None,
    progress: bool = False,
) -> dict[str, Scores]:
    """Replays every selector with the seeds 0, 1, ….

    Args:
        record: of a run.
        selectors: by name.
        seeds: how many.
        settings: how to step; by default those of `ReplaySettings`.
        progress: shows a progress bar on a terminal.

    Returns:
        {name: the mean over seeds of each score, and its `…_std`}.

    Raises:
        ValueError: a number is out of range, or a selector does not fit the record.
    """
    check_numbers(1, seeds=seeds)
    settings = settings or ReplaySettings()
    steps = len(settings.epochs(record)) * settings.selections_per_epoch
    results = {}
    with tqdm(
        total=len(selectors) * seeds * steps, unit="step", disable=None if progress else True, leave=False
    ) as bar:
        for name, selector in selectors.items():
            bar.set_description(name)
            runs = [replay_once(record, selector, seed, settings, bar.update) for seed in range(seeds)]
            results[name] = over_seeds(runs)
    return results


def recorded_forgetting(record: Trajectories, settings: ReplaySettings) -> float | None:
    """What the recorded policy had forgotten in the last epoch, see `Forgetting`; None if there is no earlier one.

    It is the record's own, whatever a selector would have chosen. As the record does not tell which rollouts were
    right, they are divided into halves at random, each time alike.

    Args:
        record: of a run.
        settings: which epochs are replayed.
    """
    rng, half = np.random.default_rng(0), record.rollouts // 2
    forgetting, now = Forgetting("", len(record)), np.full((len(record), 2), np.nan)
    for epoch in settings.epochs(record):
        forgetting.add(now)
        right = record.successes[:, epoch]
        in_half = rng.hypergeometric(right, record.rollouts - right, half)
        rests = right - in_half, record.rollouts - half
        now = np.stack([in_half / np.where(half > 0, half, np.nan), np.divide(*rests)], axis=1)
    return mean_loss(forgetting.losses(now))


def over_seeds(runs: list[Scores]) -> Scores:
    """Mean and sample standard deviation of each score over seeds.

    Args:
        runs: scores of each seed.

    Returns:
        {score: mean, score_std: deviation}; None where a value is missing, and for the deviation of one seed.
    """
    summary: Scores = {}
    for name in runs[0]:
        values = [value for run in runs if (value := run[name]) is not None]
        complete = len(values) == len(runs)
        summary[name] = float(np.mean(values)) if complete else None
        summary[f"{name}_std"] = float(np.std(values, ddof=1)) if complete and len(runs) > 1 else None
    return summary


def _effective_task_ratios(ratios: FloatArray) -> Scores:
    """The mean over all T steps, and over their first and last quarter (at least a step)."""
    quarter = max(1, len(ratios) // 4)
    means = {"effective_task_ratio": ratios, "first_quarter": ratios[:quarter], "last_quarter": ratios[-quarter:]}
    return {name: float(values.mean()) for name, values in means.items()}


def _checked(chosen: Any, batch_size: int, num_tasks: int, selector: TaskSelector) -> IntArray:
    chosen = np.asarray(chosen)
    sound = chosen.shape == (batch_size,) and chosen.dtype.kind in "iu" and len(np.unique(chosen)) == batch_size
    if not sound or chosen.min() < 0 or chosen.max() >= num_tasks:
        raise ValueError(
            f"{type(selector).__name__}.select({batch_size}) returned {chosen.tolist()}; expected {batch_size} "
            f"different positions from 0 to {num_tasks - 1}."
        )
    return chosen.astype(np.int64)
