"""Replay: selectors are stepped through the record of a real run, and scored on what they chose and foretold."""

# Shapes: N tasks, E recorded epochs, B tasks per step, T steps, M forecasts.

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from bots_lightning.beliefs import Belief, Evidence
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.evaluation.replay.trajectories import IntArray, Trajectories
from bots_lightning.evaluation.scores.belief_quality import belief_scores
from bots_lightning.evaluation.scores.effective_tasks import effective_number
from bots_lightning.selection import TaskSelector

Scores = dict[str, float | None]
BATCH_SCORES = ("rmse", "log_predictive", "spearman", "coverage_90")
POOL_SCORES = ("rmse", "log_predictive", "coverage_90")


@dataclass(frozen=True)
class ReplaySettings:
    """How a record is stepped through.

    Attributes:
        batch_size: B, tasks per selection.
        selections_per_epoch: how often a selector chooses among the counts of one recorded epoch.
        weak_from_first_epoch: the first epoch serves as the weaker reference; the replay starts at the second one,
            also for selectors without references, so that all see the same record.
    """

    batch_size: int = 16
    selections_per_epoch: int = 4
    weak_from_first_epoch: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "selections_per_epoch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected at least 1.")

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


@dataclass
class _Forecasts:
    """What a belief said before it saw what came, one entry per scored step; each array (M,)."""

    means: list[FloatArray] = field(default_factory=list)
    concentrations: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)
    successes: list[IntArray] = field(default_factory=list)
    rollouts: list[IntArray] = field(default_factory=list)

    def add(self, belief: Belief, indices: IntArray, successes: IntArray, rollouts: IntArray) -> None:
        """The belief's forecasts for some tasks, and the counts (M,) that it does not know yet."""
        self.means.append(belief.mean()[indices])
        if (concentrations := belief.concentrations()) is not None:
            self.concentrations.append((concentrations[0][indices], concentrations[1][indices]))
        self.successes.append(successes)
        self.rollouts.append(rollouts)

    def scores(self) -> Scores:
        """Pooled over all steps; none if there was no belief."""
        if not self.means:
            return dict.fromkeys(BATCH_SCORES)
        pairs = self.concentrations
        joined = (np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])) if pairs else None
        return belief_scores(
            np.concatenate(self.means), np.concatenate(self.successes), np.concatenate(self.rollouts), joined
        )


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
    task chosen twice within an epoch shows the same count again. The scores `…_all` are free of that; they are over
    all N tasks, at the first selection of each epoch, before anything of it was observed.

    Args:
        record: what happened.
        selector: as built for training; it stays as it is.
        seed: of the selector's draws.
        settings: how to step.
        on_step: called after each step.

    Returns:
        `effective_task_ratio`, over the run and its `first_quarter` and `last_quarter`; the belief's scores, none
        where it has none; `distinct_tasks`, `effective_tasks` and `largest_reuse`.

    Raises:
        ValueError: the selector returns anything but B different tasks of the record, or lacks a reference.
    """
    selector = deepcopy(selector)  # `setup` may come only once
    selector.planned_selections = len(settings.epochs(record)) * settings.selections_per_epoch
    selector.setup(record.features(settings.weak_from_first_epoch), seed=seed)
    belief = _belief_of(selector)
    everything, uses = np.arange(len(record)), np.zeros(len(record), dtype=np.int64)
    ratios: list[float] = []
    batch_forecasts, pool_forecasts = _Forecasts(), _Forecasts()
    for epoch in settings.epochs(record):
        present = record.successes[:, epoch]
        if belief is not None:
            pool_forecasts.add(belief, everything, present, record.rollouts)
        for _ in range(settings.selections_per_epoch):
            chosen = _checked(selector.select(settings.batch_size), settings.batch_size, len(record), selector)
            successes, rollouts = present[chosen], record.rollouts[chosen]
            if belief is not None:
                batch_forecasts.add(belief, chosen, successes, rollouts)
            ratios.append(float(((successes > 0) & (successes < rollouts)).mean()))
            uses[chosen] += 1
            selector.observe(Evidence(chosen.copy(), successes.astype(float), rollouts.astype(float)))
            on_step()
    over_pool = pool_forecasts.scores()
    return {
        **_effective_task_ratios(np.array(ratios)),
        **batch_forecasts.scores(),
        **{f"{name}_all": over_pool[name] for name in POOL_SCORES},
        "distinct_tasks": float((uses > 0).sum()),
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
    """Replays every selector with the seeds 0, 1, …: name -> mean over seeds of each score, and its `…_std`.

    Args:
        record: what happened.
        selectors: by name.
        seeds: how many.
        settings: how to step; all by default.
        progress: show a progress bar, if somebody is watching.
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds}; expected at least 1.")
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


def over_seeds(runs: list[Scores]) -> Scores:
    """Mean and sample standard deviation of each score; the latter needs two seeds, and both need every value."""
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


def _belief_of(selector: TaskSelector) -> Belief | None:
    """What the selector believes; none if it does not keep a belief under that name."""
    belief: Any = getattr(selector, "belief", None)
    return belief if isinstance(belief, Belief) else None


def _checked(chosen: Any, batch_size: int, num_tasks: int, selector: TaskSelector) -> IntArray:
    chosen = np.asarray(chosen)
    sound = chosen.shape == (batch_size,) and chosen.dtype.kind in "iu" and len(np.unique(chosen)) == batch_size
    if not sound or chosen.min() < 0 or chosen.max() >= num_tasks:
        raise ValueError(
            f"{type(selector).__name__}.select({batch_size}) returned {chosen.tolist()}; expected {batch_size} "
            f"different positions from 0 to {num_tasks - 1}."
        )
    return chosen.astype(np.int64)
