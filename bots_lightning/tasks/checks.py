"""What makes a task valid; the pool and the readers share these checks, each with its own way to name a row.

A column is a Python sequence or Arrow data. Of Arrow data, what is surely sound is told apart as a whole; only the rest
becomes Python objects, so that a check of a large pool costs little time and memory.
"""

# Shapes: N tasks.

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from reprlib import repr as short
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bots_lightning.tasks.arrays import Column, Place, is_number, numbers, values
from bots_lightning.tasks.prompts import ROLES, is_text, suspects

# Columns of a program's tests, which may stand there instead of in the answer.
TEST_COLUMNS = ("test", "test_list")


def check_prompts(prompts: Column, place: Place) -> None:
    """Every prompt is a string, or every prompt is a list of chat messages; none is empty or ends with an answer.

    Raises:
        ValueError: naming the first row for which that does not hold.
    """
    first = next(values(prompts), None)
    rows: Iterable[tuple[int, Any]] = enumerate(prompts)
    if isinstance(prompts, pa.ChunkedArray):
        rows = ((row, prompts[row].as_py()) for row in suspects(prompts).tolist())  # no take: it copies the column
    for row, prompt in rows:
        fault = _prompt_fault(prompt)
        if fault:
            raise ValueError(f"{place(row)}: {fault}")
        if isinstance(prompt, str) != isinstance(first, str):
            raise ValueError(
                f"{place(row)}: the prompt is {_kind(prompt)}, but that of {place(0)} is {_kind(first)}; expected "
                "one kind. Write all prompts as strings, or all as lists of {role, content} messages."
            )


def _prompt_fault(prompt: Any) -> str:
    """What is wrong with a prompt and what to do; empty if nothing is."""
    if _is_null(prompt) or prompt == [] or (isinstance(prompt, str) and not prompt.strip()):
        return f"the prompt is empty ({prompt!r}). Give the task a prompt or remove it."
    if isinstance(prompt, str):
        return ""
    if not isinstance(prompt, list):
        return (
            f"the prompt is {_kind(prompt)}; expected a string or a list of {{role, content}} messages. "
            "Rewrite it, or name another `prompt_column`."
        )
    fault = next(filter(None, (_message_fault(number, message) for number, message in enumerate(prompt, start=1))), "")
    if fault:
        return fault
    if not any(message["content"].strip() for message in prompt):
        return "the prompt is empty: no message has content. Give the task a prompt or remove it."
    if prompt[-1]["role"] == "assistant":
        return "the last message is the assistant's; nothing is left to answer. End the prompt with a user's message."
    return ""


def _message_fault(number: int, message: Any) -> str:
    if not isinstance(message, dict):
        return (
            f"message {number} of the prompt is {_kind(message)}; expected an object with role and content. "
            'Write it as {"role": "user", "content": …}.'
        )
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            return (
                f"message {number} of the prompt has {key}={short(message.get(key))}; expected a string. "
                "Give every message a role and a content."
            )
    if message["role"] not in ROLES:
        return f"message {number} of the prompt has role={message['role']!r}; use one of {', '.join(ROLES)}."
    return ""


def answer_texts(answers: Column, place: Place) -> Column:
    """The answers as strings: 42 becomes "42", 0.5 becomes "0.5"; where all are lists or objects, their JSON text.

    Raises:
        ValueError: naming the first row whose answer is null or of another kind.
    """
    if not isinstance(next(values(answers), None), (list, dict)):
        return texts("answer", answers, place)
    return [_json(answer, place, row) for row, answer in enumerate(values(answers))]


def check_filled(answers: Column, columns: Mapping[str, Column], place: Place) -> None:
    """No answer is empty, except where the tests of a program stand in a column of their own.

    An empty completion would match it.

    Args:
        answers: N strings.
        columns: of the same rows, `TEST_COLUMNS` perhaps among them.
        place: names a row.

    Raises:
        ValueError: naming the first row whose answer is.
    """
    empty = [row for row, answer in enumerate(values(answers)) if not answer.strip()]
    tests = [columns[name] for name in TEST_COLUMNS if name in columns]
    for row in empty:
        if not any(_at(column, row) for column in tests):
            raise ValueError(
                f"{place(row)}: the answer is empty. Fill it in (with any text, if no reward reads it) or remove the "
                "task."
            )


def id_texts(ids: Sequence[Any], place: Place) -> list[str]:
    """The ids as strings, unique.

    Raises:
        ValueError: an id is null or neither string nor number, or appears twice.
    """
    found = list(texts("id", ids, place))
    check_unique(found, place)
    return found


def texts(name: str, column: Column, place: Place) -> Column:
    """Strings as they are, numbers as they are written.

    Raises:
        ValueError: naming the first row that is null or neither string nor number.
    """
    if isinstance(column, pa.ChunkedArray) and is_text(column.type) and not column.null_count:
        return column
    return [_text(name, value, place, row) for row, value in enumerate(values(column))]


def check_no_nul(name: str, labels: pa.ChunkedArray, place: Place) -> None:
    """No label holds a NUL: numpy drops it at the end of a text, and takes two labels for one.

    Raises:
        ValueError: naming the first row that does.
    """
    row = pc.index(pc.match_substring(labels, "\0"), True).as_py() if is_text(labels.type) else -1
    if row >= 0:
        raise ValueError(
            f"{place(row)}: the {name} {labels[row].as_py()!r} holds a NUL character; expected text without. Remove it."
        )


def check_unique(ids: Column, place: Place) -> None:
    """No id appears twice.

    Raises:
        ValueError: naming the first few that do, with two places each.
    """
    hashes = np.fromiter(map(hash, values(ids)), np.int64, len(ids))
    hashes.sort()  # in place: 8 bytes an id, a tenth of what a set takes
    if (hashes[1:] != hashes[:-1]).all():
        return
    first: dict[str, int] = {}
    repeats: dict[str, tuple[int, int]] = {}
    for row, task in enumerate(values(ids)):
        if first.setdefault(task, row) != row:
            repeats.setdefault(task, (first[task], row))
    if repeats:
        named = [f"{task!r} ({place(a)}; {place(b)})" for task, (a, b) in list(repeats.items())[:3]]
        more = ", …" if len(repeats) > len(named) else ""
        raise ValueError(
            f"{len(repeats)} task ids appear more than once: {', '.join(named)}{more}. Task ids must be unique: remove "
            "the repeated tasks (of a file: drop_duplicates=true), or give each a different id. (Without an id "
            "column, a task's id is the hash of its prompt and answer.)"
        )


def check_rates(name: str, rates: Column, place: Place) -> None:
    """Every reference pass rate is a number in [0, 1]; None and NaN mean unknown.

    Raises:
        ValueError: naming the first row for which that does not hold.
    """
    if isinstance(rates, pa.ChunkedArray) and is_number(rates.type):
        known = numbers(rates)
        if (np.isnan(known) | ((known >= 0) & (known <= 1))).all():
            return
    for row, rate in enumerate(values(rates)):
        if rate is None:
            continue
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise ValueError(
                f"{place(row)}: {name} is {_kind(rate)} {short(rate)}; expected a number in [0, 1] or null. "
                "Write it as a number, or leave the column out of the source's `references`."
            )
        if not (0 <= rate <= 1 or math.isnan(rate)):
            raise ValueError(
                f"{place(row)}: {name}={rate}; expected a pass rate in [0, 1], null if unknown. "
                "Divide counts by their number of attempts and percentages by 100."
            )


def _text(name: str, value: Any, place: Place, row: int) -> str:
    if isinstance(value, str):
        return value
    if _is_null(value):
        raise ValueError(f"{place(row)}: the {name} is null. Fill it in or remove the task.")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"{place(row)}: the {name} is {_kind(value)} {short(value)}; expected a string or a number. "
            f"Rewrite it, or name another `{name}_column`."
        )
    if math.isinf(value):
        raise ValueError(f"{place(row)}: the {name} is {value}; expected a finite number or text. Correct it.")
    return str(value)


def _json(answer: Any, place: Place, row: int) -> str:
    if _is_null(answer):
        raise ValueError(f"{place(row)}: the answer is null. Fill it in or remove the task.")
    if not isinstance(answer, (list, dict)):
        raise ValueError(
            f"{place(row)}: the answer is {_kind(answer)}, but that of {place(0)} is a list or an object. "
            "Write all answers alike, for example as JSON text."
        )
    try:
        return json.dumps(answer, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"{place(row)}: the answer {short(answer)} holds a number that JSON has not (NaN or infinity). Write it as "
            "text."
        ) from error


def _at(column: Column, row: int) -> Any:
    return column[row].as_py() if isinstance(column, pa.ChunkedArray) else column[row]


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kind(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")
