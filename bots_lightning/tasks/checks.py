"""Checks of columns, shared by the pool and the readers, each of which names rows in its own way.

A column is a Python sequence or Arrow data. Arrow data are checked as a whole first; only rows that may be invalid are
converted to Python objects, so that the check of a large pool takes little time and memory.
"""

# Shapes: N tasks.

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from reprlib import repr as short
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bots_lightning.tasks.arrays import Column, is_null, is_number, kind_of, numbers, value_at, values
from bots_lightning.tasks.places import Place
from bots_lightning.tasks.prompts import is_text

# Columns that may hold the tests of a program instead of the answer.
TEST_COLUMNS = ("test", "test_list")


def answer_texts(answers: Column, place: Place) -> Column:
    """Converts answers to strings: 42 becomes "42", 0.5 becomes "0.5"; lists and objects become JSON text.

    Args:
        answers: N values, all strings and numbers or all lists and objects.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row whose answer is null or of another kind.
    """
    if not isinstance(next(values(answers), None), (list, dict)):
        return texts("answer", answers, place)
    return [_json(answer, place, row) for row, answer in enumerate(values(answers))]


def check_filled(answers: Column, columns: Mapping[str, Column], place: Place) -> None:
    """Checks that no answer is empty, unless a column of `TEST_COLUMNS` has tests for it.

    An empty completion would match an empty answer.

    Args:
        answers: N strings.
        columns: all columns of the same rows.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row whose answer is empty.
    """
    empty = [row for row, answer in enumerate(values(answers)) if not answer.strip()]
    tests = [columns[name] for name in TEST_COLUMNS if name in columns]
    for row in empty:
        if not any(value_at(column, row) for column in tests):
            raise ValueError(
                f"{place(row)}: the answer is empty. Fill it in (with any text, if no reward uses it) or remove the "
                "task."
            )


def id_texts(ids: Sequence[Any], place: Place) -> list[str]:
    """Converts ids to strings and checks that they are unique.

    Args:
        ids: N strings or numbers.
        place: describes where a row comes from.

    Raises:
        ValueError: an id is null or neither string nor number, or appears twice.
    """
    found = list(texts("id", ids, place))
    check_unique(found, place)
    return found


def texts(name: str, column: Column, place: Place) -> Column:
    """Converts strings and numbers to strings.

    Args:
        name: what the values are, for the error message.
        column: N values.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row that is null or neither string nor number.
    """
    if isinstance(column, pa.ChunkedArray) and is_text(column.type) and not column.null_count:
        return column
    return [_text(name, value, place, row) for row, value in enumerate(values(column))]


def check_no_nul(name: str, labels: pa.ChunkedArray, place: Place) -> None:
    """Checks that no label holds a NUL character: NumPy drops trailing ones, so that two labels would become equal.

    Args:
        name: what the labels are, for the error message.
        labels: N values.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row that holds one.
    """
    row = pc.index(pc.match_substring(labels, "\0"), True).as_py() if is_text(labels.type) else -1
    if row >= 0:
        raise ValueError(
            f"{place(row)}: the {name} {labels[row].as_py()!r} holds a NUL character; expected text without one. "
            "Remove it."
        )


def check_unique(ids: Column, place: Place) -> None:
    """Checks that no id appears twice.

    Args:
        ids: N strings.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first few repeated ids, with two places each.
    """
    hashes = np.fromiter(map(hash, values(ids)), np.int64, len(ids))
    hashes.sort()  # in place: 8 bytes per id, a tenth of the memory of a set
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
            "the repeated tasks (for a file: drop_duplicates=true), or give each a different id. (Without an id "
            "column, a task's id is the hash of its prompt and answer.)"
        )


def check_rates(name: str, rates: Column, place: Place) -> None:
    """Checks that every reference pass rate is a number in [0, 1], or None or NaN if unknown.

    Args:
        name: of the reference column, for the error message.
        rates: N values.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row that holds no pass rate.
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
                f"{place(row)}: {name} is {kind_of(rate)} {short(rate)}; expected a number in [0, 1] or null. "
                "Write it as a number, or remove the column from the source's `references`."
            )
        if not (0 <= rate <= 1 or math.isnan(rate)):
            raise ValueError(
                f"{place(row)}: {name}={rate}; expected a pass rate in [0, 1], null if unknown. "
                "Divide counts by their number of attempts and percentages by 100."
            )


def _text(name: str, value: Any, place: Place, row: int) -> str:
    if isinstance(value, str):
        return value
    if is_null(value):
        raise ValueError(f"{place(row)}: the {name} is null. Fill it in or remove the task.")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"{place(row)}: the {name} is {kind_of(value)} {short(value)}; expected a string or a number. "
            f"Rewrite it, or name another `{name}_column`."
        )
    if math.isinf(value):
        raise ValueError(f"{place(row)}: the {name} is {value}; expected a finite number or text. Correct it.")
    return str(value)


def _json(answer: Any, place: Place, row: int) -> str:
    if is_null(answer):
        raise ValueError(f"{place(row)}: the answer is null. Fill it in or remove the task.")
    if not isinstance(answer, (list, dict)):
        raise ValueError(
            f"{place(row)}: the answer is {kind_of(answer)}, but that of {place(0)} is a list or an object. "
            "Write all answers in the same way, for example as JSON text."
        )
    try:
        return json.dumps(answer, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"{place(row)}: the answer {short(answer)} holds NaN or infinity, which JSON cannot represent. Write it as "
            "text."
        ) from error
