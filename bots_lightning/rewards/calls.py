"""One call of a reward function: what it is given, and whether what it returns can be used."""

# Shapes: B tasks, G rollouts per task, R = B·G rows.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.rewards.signatures import RewardFunction
from bots_lightning.tasks import Task

# Names of the columns that every task has, and its fields.
NAMED = {"answer": "answer", "task_id": "id", "group": "group"}


def shared_columns(tasks: Sequence[Task]) -> list[str]:
    """Columns that every task has, but for those that are passed by name."""
    shared = set.intersection(*(set(task.columns) for task in tasks))
    return sorted(shared - {"prompts", "completions", *NAMED})


def row_columns(tasks: Sequence[Task], generations: int, names: Sequence[str]) -> dict[str, list[Any]]:
    """What functions are given beside the completions.

    Args:
        tasks: B of them.
        generations: rows per task (G).
        names: of the tasks' columns to pass, as of `shared_columns`.

    Returns:
        "prompts" and every column, each with R values; row b·G + j is that of task b.
    """
    rows = [task for task in tasks for _ in range(generations)]
    columns: dict[str, list[Any]] = {name: [row.columns[name] for row in rows] for name in names}
    columns |= {name: [getattr(row, field) for row in rows] for name, field in NAMED.items()}
    return columns | {"prompts": [row.prompt for row in rows]}


def checked_scores(
    function: RewardFunction, completions: Sequence[str], columns: dict[str, list[Any]]
) -> npt.NDArray[np.float64]:
    """What a function says of R completions.

    Args:
        function: in TRL's signature.
        completions: R texts.
        columns: as of `row_columns`.

    Returns:
        (R,) float, NaN where the function does not apply.

    Raises:
        ValueError: it returns the wrong number of rewards, or no number.
    """
    name = getattr(function, "__name__", type(function).__name__)
    scores = function(completions=list(completions), **columns)
    if len(scores) != len(completions):
        raise ValueError(
            f"reward function {name} returned {len(scores)} rewards for {len(completions)} completions; "
            "expected one for each (None where it does not apply)."
        )
    for i, score in enumerate(scores):
        if score is not None and not math.isfinite(score):
            raise ValueError(
                f"reward function {name} returned {score} for task {columns['task_id'][i]!r}; "
                "expected a finite number, or None where it does not apply."
            )
    return np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
