"""Texts in task files: strict JSON, chats and objects given as JSON text, and checks of UTF-8."""

# Shapes: N tasks.

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bots_lightning.tasks.arrays import SLICE, Column, value_at, values
from bots_lightning.tasks.places import Place
from bots_lightning.tasks.prompts import is_text

_LIST_OF_OBJECTS = r'^\s*\[\s*\{\s*"'
_AS_JSON = re.compile(_LIST_OF_OBJECTS)
_AS_PYTHON = r"^\s*\[\s*\{\s*'(role|content)'\s*:"


class StrictJSONError(ValueError):
    """JSON that Python accepts although it is ambiguous or not standard."""


def read_json(text: str) -> Any:
    """Parses JSON strictly. NaN, which Python writes, is accepted, since pass rates may be unknown.

    Args:
        text: JSON.

    Raises:
        StrictJSONError: an object has a key twice, or a number is infinite.
        ValueError: the text is not JSON.
    """
    return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise StrictJSONError(f"an object has the key {twice[0]!r} more than once. Keep one of them.")
    return found


def _constant(name: str) -> float:
    if name != "NaN":
        raise StrictJSONError(f"{name} is not a JSON number. Write a finite number, or null if it is unknown.")
    return math.nan


def check_encoding(columns: Mapping[str, Column], place: Place) -> None:
    """Checks that all strings of Arrow data, at any depth, are UTF-8, which Arrow does not do when it reads them.

    Args:
        columns: N values each, by name.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row that is not UTF-8, and its column.
    """
    for name, column in columns.items():
        if not isinstance(column, pa.ChunkedArray):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if (row := _first_undecodable(column)) is not None:
                raise ValueError(
                    f"{place(row)}: column {name!r} holds text that is not UTF-8 ({error}). Write it as UTF-8."
                ) from error


def _first_undecodable(column: pa.ChunkedArray) -> int | None:
    for start in range(0, len(column), SLICE):
        rows = column.slice(start, SLICE)
        try:
            rows.to_pylist()
        except UnicodeDecodeError:
            for row in range(len(rows)):
                try:
                    rows[row].as_py()
                except UnicodeDecodeError:
                    return start + row
    return None


def chats_of_texts(prompts: Column, place: Place) -> Column:
    """Parses prompts that are chats as JSON text, as in CSV; other prompts are returned unchanged.

    Args:
        prompts: N prompts.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row that is plain text while others are chats, or a chat printed by Python.
    """
    if (row := _first_match(prompts, _AS_PYTHON)) is not None:
        raise ValueError(
            f"{place(row)}: the prompt is a chat printed by Python, {short(value_at(prompts, row))}; expected JSON or "
            "a list of messages. Write it with json.dumps."
        )
    if _first_match(prompts, _LIST_OF_OBJECTS) is None:
        return prompts
    chats = [_chat(value, place, row) for row, value in enumerate(values(prompts))]
    texts = [row for row, chat in enumerate(chats) if isinstance(chat, str) and chat.strip()]
    if not any(isinstance(chat, list) for chat in chats):
        return prompts
    if texts:
        other = next(row for row, chat in enumerate(chats) if isinstance(chat, list))
        raise ValueError(
            f"{place(texts[0])}: the prompt is the text {short(chats[texts[0]])}, but that of {place(other)} is a chat "
            "as JSON text; expected one kind. Write all prompts as strings, or all as chats."
        )
    return chats


def objects_of_texts(name: str, column: Column, place: Place) -> Column:
    """Parses a column of objects as JSON text; a column whose first value is not such text is returned unchanged.

    Args:
        name: of the column, for the error message.
        column: N values.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row that holds no object.
    """
    first = next((value for value in values(column) if value is not None), None)
    if not isinstance(first, str) or not isinstance(_parsed(first, place, 0), dict):
        return column
    objects = [_parsed(value, place, row) for row, value in enumerate(values(column))]
    for row, found in enumerate(objects):
        if found is not None and not isinstance(found, dict):
            raise ValueError(
                f"{place(row)}: {name} is {short(found)}; expected an object as JSON text, as in the rows before it."
                " Correct it."
            )
    return objects


def group_labels(groups: Column, place: Place) -> Column:
    """Converts groups to strings, "" for null and NaN.

    Args:
        groups: N values.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row whose group is a list or an object.
    """
    if isinstance(groups, pa.ChunkedArray) and is_text(groups.type):
        return groups
    for row, group in enumerate(values(groups)):
        if isinstance(group, (list, dict)):
            raise ValueError(
                f"{place(row)}: the group is {short(group)}; expected a label. Set another `group_column`."
            )
    return ["" if group is None or group != group else str(group) for group in values(groups)]  # NaN is not itself


def _chat(value: Any, place: Place, row: int) -> Any:
    """The list of messages if the value is one in JSON, else the value itself."""
    if not isinstance(value, str) or not _AS_JSON.match(value):
        return value
    found = _parsed(value, place, row)
    return found if isinstance(found, list) and all("role" in message for message in found) else value


def _parsed(value: Any, place: Place, row: int) -> Any:
    """The value that JSON text holds; other values unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return read_json(value)
    except StrictJSONError as error:
        raise ValueError(f"{place(row)}: {error}") from error
    except (ValueError, RecursionError):
        return value


def _first_match(column: Column, pattern: str) -> int | None:
    """The first row that is a string whose beginning matches the pattern; None if there is none."""
    if isinstance(column, pa.ChunkedArray):
        if not is_text(column.type):
            return None
        row = pc.index(pc.match_substring_regex(column, pattern), True).as_py()
        return None if row < 0 else row
    begins = re.compile(pattern)
    return next((row for row, value in enumerate(column) if isinstance(value, str) and begins.match(value)), None)
