"""Run folders as records: the learning curve of each run, what it cost, and whose method it was."""

# Shapes: E evaluations, T steps with an effective task ratio.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np

from bots_lightning.evaluation.comparison.run_files import (
    AXES,
    FloatArray,
    IntArray,
    column_means,
    costs_at,
    listed,
    read_rows,
    read_summary,
    score_columns,
)

RATIO = "selection/effective_task_ratio"
SELECTION_METRICS = (
    "effective_task_ratio",
    "mixed_per_1000_rollouts",
    "effective_tasks",
    "distinct_tasks",
    "seen_fraction",
    "forgetting",
)
SUMMARY_METRICS = (
    *SELECTION_METRICS,
    "selection_overhead_fraction",
    "rollouts",
    "generated_tokens",
    "wall_seconds",
)


@dataclass(frozen=True)
class RunRecord:
    """A finished run: what it has reached, and at which cost.

    Attributes:
        folder: of the run.
        method: name of its method.
        seed: runs of the same seed are paired.
        summary: the run's `SUMMARY_METRICS` from `summary.json`, None where one is missing.
        score_columns: the metrics whose mean is the score.
        iterations: (E,) RL iterations with an evaluation; 0 is before training.
        scores: (E,), higher is better.
        costs: {axis: (E,)}, spent until each evaluation; axes that were not logged are left out.
        ratio_steps: (T,) RL iterations.
        ratio_rollouts: (T,) rollouts spent until then.
        ratios: (T,) effective task ratio.
    """

    folder: Path
    method: str
    seed: int
    summary: dict[str, float | None]
    score_columns: tuple[str, ...]
    iterations: IntArray
    scores: FloatArray
    costs: dict[str, FloatArray]
    ratio_steps: IntArray
    ratio_rollouts: FloatArray
    ratios: FloatArray


def read_runs(words: Sequence[str], score: str | None = None) -> list[RunRecord]:
    """Reads the runs of a command line: each word is a run folder, or METHOD=FOLDER.

    Args:
        words: without METHOD=, the method is the folder's name without a trailing `-SEED`, where SEED is the one in
            `summary.json`. So `bots-0` and `bots-1` are runs of `bots` if those are their seeds, while `bots-0-2`, a
            further run of seed 0, is a method of its own.
        score: a metric, higher is better; by default the mean over held-out sets of `eval/NAME/avg@k`.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing in it.
        ValueError: a run has no evaluations or other held-out sets than the first one; or a method has two runs of
            the same seed.
    """
    records = [_read_word(word, score) for word in words]
    known: dict[tuple[str, int], RunRecord] = {}
    for record in records:
        other = known.setdefault((record.method, record.seed), record)
        if other is not record:
            raise ValueError(
                f"{other.folder} and {record.folder} are both runs of {record.method!r} with seed {record.seed}. "
                "Leave one out, or name their methods: METHOD=FOLDER."
            )
        if record.score_columns != records[0].score_columns:
            raise ValueError(
                f"{records[0].folder} is scored by {listed(records[0].score_columns)}, {record.folder} by "
                f"{listed(record.score_columns)}. Compare runs with the same held-out sets, or name a metric that "
                "all have: --score METRIC."
            )
    return records


def read_run(folder: Path, method: str | None = None, score: str | None = None) -> RunRecord:
    """Reads a run folder.

    Args:
        folder: of the run.
        method: its name; by default that of the folder without a trailing `-SEED`.
        score: as of `read_runs`.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing in it.
        ValueError: the run has no evaluations, or a file of it cannot be read.
    """
    summary, rows = read_summary(folder), read_rows(folder)
    columns = score_columns(rows, folder, score)
    iterations, scores = column_means(rows, columns)
    if not len(scores):
        raise ValueError(
            f"{folder}: no step has a value of {listed(columns)}. Evaluate during training "
            "(data.evaluation, trainer.val_check_interval), or name another metric: --score METRIC."
        )
    ratio_steps, ratios = column_means(rows, (RATIO,))
    return RunRecord(
        folder=folder,
        method=method or folder.absolute().name.removesuffix(f"-{summary['seed']}"),
        seed=summary["seed"],
        summary={name: summary.get(name) for name in SUMMARY_METRICS},
        score_columns=columns,
        iterations=iterations,
        scores=scores,
        costs=costs_at(rows, summary, iterations),
        ratio_steps=ratio_steps,
        ratio_rollouts=costs_at(rows, summary, ratio_steps)["rollouts"],
        ratios=ratios,
    )


def common_evaluations(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """Restricts all runs to the iterations at which all were evaluated, and to the costs that all have logged.

    Returns:
        the runs, and warnings that name what was left out.

    Raises:
        ValueError: fewer than two iterations are left.
    """
    common = reduce(np.intersect1d, [record.iterations for record in records])
    if len(common) < 2:
        found = "; ".join(f"{record.folder}: {listed(record.iterations.tolist())}" for record in records)
        raise ValueError(
            f"the runs share {len(common)} iteration(s) with an evaluation, expected at least two ({found}). Evaluate "
            "all runs at the same iterations: trainer.val_check_interval."
        )
    axes = [axis for axis in AXES if all(axis in record.costs for record in records)]
    warnings = [_left_out(record, common) for record in records if len(record.iterations) > len(common)]
    for axis in [axis for axis in AXES if axis not in axes]:
        lacking = [str(record.folder) for record in records if axis not in record.costs]
        warnings.append(f"{axis} are not compared: {listed(lacking)} did not log them.")
    return [_restricted(record, common, axes) for record in records], warnings


def _restricted(record: RunRecord, iterations: IntArray, axes: list[str]) -> RunRecord:
    kept = np.isin(record.iterations, iterations)
    costs = {axis: record.costs[axis][kept] for axis in axes}
    return replace(record, iterations=record.iterations[kept], scores=record.scores[kept], costs=costs)


def _left_out(record: RunRecord, common: IntArray) -> str:
    extra = np.setdiff1d(record.iterations, common).tolist()
    return f"{record.folder}: evaluations at {listed(extra)} are left out; not every run was evaluated there."


def _read_word(word: str, score: str | None) -> RunRecord:
    method, equals, folder = word.partition("=")
    if not equals or Path(word).is_dir():
        return read_run(Path(word), score=score)
    if not method or not folder:
        raise ValueError(f"{word!r} is neither a run folder nor METHOD=FOLDER.")
    return read_run(Path(folder), method, score)
