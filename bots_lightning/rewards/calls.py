"""One call of a reward function: what it is given, and whether what it returns can be used."""

# Shapes: B tasks, G rollouts per task, R = B·G rows.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from reprlib import repr as short
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.rewards.judged import JudgedReward
from bots_lightning.rewards.signatures import (
    RewardFunction,
    RewardFunctionError,
    accepted,
    name_of,
    number,
    plain,
    raised,
)
from bots_lightning.tasks import Task

# Names of the columns that every task has, and its fields.
NAMED = {"answer": "answer", "task_id": "id", "group": "group"}
NAMED_TASKS = 3  # in an error message


def shared_columns(tasks: Sequence[Task]) -> list[str]:
    """Columns that every task has, but for those that are passed by name."""
    shared = set.intersection(*(set(task.columns) for task in tasks))
    return sorted(shared - {"prompts", "completions", "completion_ids", *NAMED})


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
        columns: as of `row_columns`; it is given those that it takes.

    Returns:
        (R,) float, NaN where the function does not apply.

    Raises:
        RewardFunctionError: it raises something, returns the wrong number of rewards, or no number. What a judged
            reward raises stays as it is, with a note: its own errors name the task.
    """
    arguments = accepted(function, {"completions": list(completions)} | columns)
    try:
        result = function(**arguments)
    except RewardFunctionError:
        raise
    except Exception as error:
        told = raised(function, error, _of_tasks(columns["task_id"]))
        if isinstance(function, JudgedReward):
            error.add_note(str(told))
            raise
        raise told from error
    scores = _listed(function, result, len(completions))
    ids = columns["task_id"]
    return np.array([_checked(function, score, ids[row]) for row, score in enumerate(scores)], dtype=np.float64)


def _listed(function: RewardFunction, result: Any, rows: int) -> Sequence[Any]:
    """The rewards of R completions, whatever they are."""
    seen = None
    try:
        result = plain(result)
        if isinstance(result, str | bytes | Mapping) or not isinstance(result, Sequence):
            seen = short(result)
    except TypeError as awaited:
        seen = str(awaited)
    if seen is not None:
        raise RewardFunctionError(
            f"reward function {name_of(function)} returned {seen}; expected a list of {rows} numbers, one for each "
            "completion (None where it does not apply)."
        )
    if len(result) != rows:
        raise RewardFunctionError(
            f"reward function {name_of(function)} returned {len(result)} rewards for {rows} completions; "
            "expected one for each (None where it does not apply)."
        )
    return result


def _checked(function: RewardFunction, score: Any, task_id: Any) -> float:
    """One reward, NaN for None."""
    if score is None:
        return math.nan
    try:
        found = number(score)
        seen = None if math.isfinite(found) else str(found)
    except TypeError as fault:
        seen = str(fault)
    if seen is not None:
        raise RewardFunctionError(
            f"reward function {name_of(function)} returned {seen} for task {task_id!r}; "
            "expected a finite number, or None where it does not apply."
        )
    return found


def _of_tasks(ids: Sequence[Any]) -> str:
    """Which tasks a call was about."""
    tasks = list(dict.fromkeys(ids))
    if len(tasks) == 1:
        return f"for task {tasks[0]!r}"
    named = ", ".join(map(repr, tasks[:NAMED_TASKS])) + (", …" if len(tasks) > NAMED_TASKS else "")
    return f"for one of {len(ids)} completions of the {len(tasks)} tasks {named}"
