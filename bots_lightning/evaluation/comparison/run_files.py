"""The files of a run folder that a comparison reads: `summary.json` and `metrics.csv`."""

# Shapes: E evaluations. Costs: RL steps, rollouts, generated tokens, seconds.

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.evaluation.loggers.metrics_csv import read_metrics

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Rows = list[dict[str, float]]

AXES = ("steps", "rollouts", "tokens", "seconds")
HELD_OUT = re.compile(r"eval/[^/]+/avg@\d+")  # of a full held-out set; the name of a group adds a component


def read_summary(folder: Path) -> dict[str, Any]:
    """The content of a run folder's `summary.json`.

    Raises:
        FileNotFoundError: there is no such folder, or no summary in it.
        ValueError: the summary is not JSON, or lacks an entry.
    """
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
        raise ValueError(f"{path} lacks {listed(missing)}; expected the summary that callbacks.RunSummary writes.")
    return summary


def read_rows(folder: Path) -> Rows:
    """The rows of a run folder's `metrics.csv`, by step.

    Raises:
        FileNotFoundError: there are none.
    """
    rows = read_metrics(folder / "metrics.csv")
    if not rows:
        raise FileNotFoundError(f"{folder} has no metrics.csv with rows; expected the one that `fit` writes.")
    return sorted(rows, key=lambda row: row["step"])


def score_columns(rows: Rows, folder: Path, score: str | None) -> tuple[str, ...]:
    """The metrics whose mean is the score of a run.

    Args:
        rows: of `metrics.csv`.
        folder: of the run, for errors.
        score: a metric; None stands for avg@k of all held-out sets.

    Raises:
        ValueError: the run has not logged it.
    """
    present = {name for row in rows for name in row}
    if score is None:
        found = tuple(sorted(name for name in present if HELD_OUT.fullmatch(name)))
        if not found:
            raise ValueError(
                f"{folder}: metrics.csv has no eval/NAME/avg@k, so it was never evaluated. Give it held-out tasks "
                "(data.evaluation), or name another metric: --score METRIC."
            )
        return found
    if score not in present:
        known = sorted(name for name in present if name.startswith("eval/")) or sorted(present)
        raise ValueError(f"{folder}: metrics.csv has no {score!r}; it has {listed(known)}.")
    return (score,)


def column_means(rows: Rows, columns: tuple[str, ...]) -> tuple[IntArray, FloatArray]:
    """Steps that have a finite value of every column, and the mean of these values; both (E,)."""
    means = {int(row["step"]): np.mean([row.get(name, np.nan) for name in columns]) for row in rows}
    kept = {step: mean for step, mean in means.items() if np.isfinite(mean)}
    return np.array(list(kept), dtype=np.int64), np.array(list(kept.values()), dtype=np.float64)


def costs_at(rows: Rows, summary: dict[str, Any], iterations: IntArray) -> dict[str, FloatArray]:
    """What a run had spent after some iterations, by axis.

    Seconds are those of steps (`step_time`: selection, rollouts, rewards, update), so that evaluations and checkpoints
    do not count. Between logged steps, counts and step times are interpolated. Runs that did not log `num_rollouts`
    spent their rollouts evenly.

    Args:
        rows: of `metrics.csv`, one per step.
        summary: of the run.
        iterations: (E,).

    Returns:
        {axis: (E,)}; without tokens or seconds if they were not logged.
    """
    costs = {"steps": iterations.astype(float)}
    steps, spent = column_means(rows, ("num_rollouts",))
    if not len(steps):
        steps, spent = np.array([summary["iterations"]]), np.array([float(summary["rollouts"])])
    costs["rollouts"] = np.interp(iterations, [0, *steps], [0, *spent])
    steps, spent = column_means(rows, ("num_tokens",))
    if len(steps):
        costs["tokens"] = np.interp(iterations, [0, *steps], [0, *spent])
    steps, seconds = column_means(rows, ("step_time",))  # of single steps, not cumulative
    if len(steps):
        every = np.arange(1, max(iterations.max(initial=0), steps[-1]) + 1)
        total = np.cumsum(np.interp(every, steps, seconds))
        costs["seconds"] = np.concatenate([[0.0], total])[iterations]
    return costs


def listed(items: Sequence[object]) -> str:
    """Items for an error message, separated by commas."""
    return ", ".join(str(item) for item in items)
