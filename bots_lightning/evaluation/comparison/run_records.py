"""Run folders as records: the learning curve of each run, what it cost, and whose method it was."""

# Shapes: E evaluations, T steps with an effective task ratio. Costs: RL steps, rollouts, generated tokens, seconds.

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.evaluation.loggers.metrics_csv import read_metrics

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Rows = list[dict[str, float]]

AXES = ("steps", "rollouts", "tokens", "seconds")
HELD_OUT = re.compile(r"eval/[^/]+/avg@\d+")  # of a whole held-out set; groups have a further part
RATIO = "selection/effective_task_ratio"
FIGURES = (
    "effective_task_ratio",
    "effective_tasks",
    "distinct_tasks",
    "selection_overhead_fraction",
    "rollouts",
    "generated_tokens",
    "wall_seconds",
)


@dataclass(frozen=True)
class RunRecord:
    """What a comparison needs to know of a finished run.

    Attributes:
        folder: where it lies.
        method: whose run it is.
        seed: runs of the same seed are paired.
        figures: the run's `FIGURES` from `summary.json`, none where it has none.
        score_columns: the metrics whose mean is the score.
        iterations: (E,) RL iterations with an evaluation; 0 is before training.
        scores: (E,).
        costs: axis -> (E,), spent until each evaluation; axes that were not logged are left out.
        ratio_steps: (T,) RL iterations.
        ratio_rollouts: (T,) rollouts spent until then.
        ratios: (T,) effective task ratio.
    """

    folder: Path
    method: str
    seed: int
    figures: dict[str, float | None]
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
        words: without METHOD=, the method is the folder's name without a trailing `-SEED`, the seed that
            `summary.json` tells. So `bots-0` and `bots-1` are runs of `bots`, if those are their seeds, while
            `bots-0-2`, a further run of seed 0, stays a method of its own.
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
                f"{records[0].folder} is scored by {_listed(records[0].score_columns)}, {record.folder} by "
                f"{_listed(record.score_columns)}. Compare runs with the same held-out sets, or name a metric that "
                "all have: --score METRIC."
            )
    return records


def read_run(folder: Path, method: str | None = None, score: str | None = None) -> RunRecord:
    """Reads a run folder; `read_runs` tells what the arguments mean and what is raised."""
    summary, rows = _read_summary(folder), _read_rows(folder)
    columns = _score_columns(rows, folder, score)
    iterations, scores = _column_means(rows, columns)
    if not len(scores):
        raise ValueError(
            f"{folder}: no step has a value of {_listed(columns)}. Evaluate during training "
            "(data.init_args.evaluation, trainer.val_check_interval), or name another metric: --score METRIC."
        )
    ratio_steps, ratios = _column_means(rows, (RATIO,))
    return RunRecord(
        folder=folder,
        method=method or folder.absolute().name.removesuffix(f"-{summary['seed']}"),
        seed=summary["seed"],
        figures={name: summary.get(name) for name in FIGURES},
        score_columns=columns,
        iterations=iterations,
        scores=scores,
        costs=costs_at(rows, summary, iterations),
        ratio_steps=ratio_steps,
        ratio_rollouts=costs_at(rows, summary, ratio_steps)["rollouts"],
        ratios=ratios,
    )


def costs_at(rows: Rows, summary: dict[str, Any], iterations: IntArray) -> dict[str, FloatArray]:
    """What a run had spent after some iterations.

    Seconds are those of steps (`step_time`: selection, rollouts, rewards, update), so that evaluations and checkpoints
    do not count. Between logged steps, counts and step times are interpolated. Runs that did not log `num_rollouts`
    spent their rollouts evenly.

    Args:
        rows: of `metrics.csv`, one per step.
        summary: of the run.
        iterations: (E,).

    Returns:
        axis -> (E,); without tokens or seconds if they were not logged.
    """
    costs = {"steps": iterations.astype(float)}
    steps, spent = _column_means(rows, ("num_rollouts",))
    if not len(steps):
        steps, spent = np.array([summary["iterations"]]), np.array([float(summary["rollouts"])])
    costs["rollouts"] = np.interp(iterations, [0, *steps], [0, *spent])
    steps, spent = _column_means(rows, ("num_tokens",))
    if len(steps):
        costs["tokens"] = np.interp(iterations, [0, *steps], [0, *spent])
    steps, seconds = _column_means(rows, ("step_time",))  # of single steps, not cumulative
    if len(steps):
        every = np.arange(1, max(iterations.max(initial=0), steps[-1]) + 1)
        total = np.cumsum(np.interp(every, steps, seconds))
        costs["seconds"] = np.concatenate([[0.0], total])[iterations]
    return costs


def common_evaluations(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """Restricts all runs to the iterations at which each of them was evaluated, and to the costs that each logged.

    Returns:
        the runs, and warnings that say what was left out.

    Raises:
        ValueError: fewer than two iterations are left.
    """
    common = reduce(np.intersect1d, [record.iterations for record in records])
    if len(common) < 2:
        told = "; ".join(f"{record.folder}: {_listed(record.iterations.tolist())}" for record in records)
        raise ValueError(
            f"the runs share {len(common)} iteration(s) with an evaluation, expected at least two ({told}). Evaluate "
            "all runs at the same iterations: trainer.val_check_interval."
        )
    axes = [axis for axis in AXES if all(axis in record.costs for record in records)]
    warnings = [_left_out(record, common) for record in records if len(record.iterations) > len(common)]
    for axis in [axis for axis in AXES if axis not in axes]:
        lacking = [str(record.folder) for record in records if axis not in record.costs]
        warnings.append(f"{axis} are not compared: {_listed(lacking)} did not log them.")
    return [_restricted(record, common, axes) for record in records], warnings


def _restricted(record: RunRecord, iterations: IntArray, axes: list[str]) -> RunRecord:
    kept = np.isin(record.iterations, iterations)
    costs = {axis: record.costs[axis][kept] for axis in axes}
    return replace(record, iterations=record.iterations[kept], scores=record.scores[kept], costs=costs)


def _left_out(record: RunRecord, common: IntArray) -> str:
    extra = np.setdiff1d(record.iterations, common).tolist()
    return f"{record.folder}: evaluations at {_listed(extra)} are left out; not every run was evaluated there."


def _read_word(word: str, score: str | None) -> RunRecord:
    method, equals, folder = word.partition("=")
    if not equals or Path(word).is_dir():
        return read_run(Path(word), score=score)
    if not method or not folder:
        raise ValueError(f"{word!r} is neither a run folder nor METHOD=FOLDER.")
    return read_run(Path(folder), method, score)


def _read_summary(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder (looked in {Path.cwd()}). Name run folders: runs/NAME.")
    path = folder / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no summary.json: that run has not finished. Wait for it, continue it with --ckpt_path, or "
            "leave it out."
        )
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    missing = [name for name in ("seed", "iterations", "rollouts") if name not in summary]
    if missing:
        raise ValueError(f"{path} lacks {_listed(missing)}; expected the summary that callbacks.RunSummary writes.")
    return summary


def _read_rows(folder: Path) -> Rows:
    rows = read_metrics(folder / "metrics.csv")
    if not rows:
        raise FileNotFoundError(f"{folder} has no metrics.csv with rows; expected the one that `fit` writes.")
    return sorted(rows, key=lambda row: row["step"])


def _score_columns(rows: Rows, folder: Path, score: str | None) -> tuple[str, ...]:
    present = {name for row in rows for name in row}
    if score is None:
        found = tuple(sorted(name for name in present if HELD_OUT.fullmatch(name)))
        if not found:
            raise ValueError(
                f"{folder}: metrics.csv has no eval/NAME/avg@k, so it was never evaluated. Give it held-out tasks "
                "(data.init_args.evaluation), or name another metric: --score METRIC."
            )
        return found
    if score not in present:
        known = sorted(name for name in present if name.startswith("eval/")) or sorted(present)
        raise ValueError(f"{folder}: metrics.csv has no {score!r}; it has {_listed(known)}.")
    return (score,)


def _column_means(rows: Rows, columns: tuple[str, ...]) -> tuple[IntArray, FloatArray]:
    """Steps that have a finite value of every column, and the mean of these values; both (E,)."""
    means = {int(row["step"]): np.mean([row.get(name, np.nan) for name in columns]) for row in rows}
    kept = {step: mean for step, mean in means.items() if np.isfinite(mean)}
    return np.array(list(kept), dtype=np.int64), np.array(list(kept.values()), dtype=np.float64)


def _listed(items: Sequence[object]) -> str:
    return ", ".join(str(item) for item in items)
