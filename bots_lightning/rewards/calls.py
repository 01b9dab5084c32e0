"""One call of a reward function: what it is given, and whether what it returns can be used."""

# Shapes: B tasks, n_b rollouts of task b (counts), R = Σ n_b rows.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from reprlib import repr as short
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.rewards.graded import GradedReward
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
    """Names of the columns that every task has, except those that are passed by a name of their own."""
    shared = set.intersection(*(set(task.columns) for task in tasks))
    return sorted(shared - {"prompts", "completions", "completion_ids", *NAMED})


def tasks_of_rows(tasks: Sequence[Task], counts: Sequence[int]) -> list[Task]:
    """The task of each row, R in all; the rows of a task follow each other.

    Args:
        tasks: B of them.
        counts: n_b rows of each.

    Raises:
        ValueError: there are more or fewer counts than tasks.
    """
    if len(counts) != len(tasks):
        raise ValueError(f"{len(counts)} counts of rollouts for {len(tasks)} tasks; expected one for each.")
    return [task for task, count in zip(tasks, counts, strict=True) for _ in range(count)]


def check_completions(completions: Sequence[str], tasks: Sequence[Task], rows: int) -> None:
    """Refuses another number of completions than there are rows.

    Raises:
        ValueError: names both numbers.
    """
    if len(completions) != rows:
        raise ValueError(f"{len(completions)} completions of {len(tasks)} tasks; expected {rows}, the sum of counts.")


def row_columns(rows: Sequence[Task], names: Sequence[str]) -> dict[str, list[Any]]:
    """The arguments of reward functions besides the completions.

    Args:
        rows: the task of each row, R in all.
        names: of the tasks' columns to pass, as of `shared_columns`.

    Returns:
        "prompts" and every column, each with R values.
    """
    columns: dict[str, list[Any]] = {name: [row.columns[name] for row in rows] for name in names}
    columns |= {name: [getattr(row, field) for row in rows] for name, field in NAMED.items()}
    return columns | {"prompts": [row.prompt for row in rows]}


def checked_scores(
    function: RewardFunction, completions: Sequence[str], columns: dict[str, list[Any]]
) -> npt.NDArray[np.float64]:
    """Calls a function with R completions and checks what it returns.

    Args:
        function: in TRL's signature.
        completions: R texts.
        columns: as of `row_columns`; the function is given those that it takes.

    Returns:
        (R,) float, NaN where the function does not apply.

    Raises:
        RewardFunctionError: it raises something, returns the wrong number of rewards, or no number. What a graded
            reward raises is raised unchanged, with a note: its own errors name the task.
    """
    arguments = accepted(function, {"completions": list(completions)} | columns)
    try:
        result = function(**arguments)
    except RewardFunctionError:
        raise
    except Exception as error:  # whatever a user's function raises; raised again, with its name and task
        described = raised(function, error, _of_tasks(columns["task_id"]))
        if isinstance(function, GradedReward):
            error.add_note(str(described))
            raise
        raise described from error
    scores = _listed(function, result, len(completions))
    ids = columns["task_id"]
    return np.array([_checked(function, score, ids[row]) for row, score in enumerate(scores)], dtype=np.float64)


def _listed(function: RewardFunction, result: Any, rows: int) -> Sequence[Any]:
    """The result of a function as a list of R rewards, whatever those are."""
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
    """The tasks of a call, in words."""
    tasks = list(dict.fromkeys(ids))
    if len(tasks) == 1:
        return f"for task {tasks[0]!r}"
    named = ", ".join(map(repr, tasks[:NAMED_TASKS])) + (", …" if len(tasks) > NAMED_TASKS else "")
    return f"for one of {len(ids)} completions of the {len(tasks)} tasks {named}"
