"""Whether two answers are the same: as text, as words, or as the data that they spell out."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

# Marks around an answer that do not belong to it: quotes, and the emphasis and code marks of Markdown.
WRAPPING = "\"'`*_"
FENCE = re.compile(r"```\w*\n(.*)\n\s*```", re.DOTALL)


def same_text(given: str, expected: str) -> bool:
    """Whether two texts are equal, apart from white space around them."""
    return given.strip() == expected.strip()


def same_normalised(given: str, expected: str) -> bool:
    """Whether two texts are equal once `normalised`."""
    return normalised(given) == normalised(expected)


def same_data(given: str, expected: str) -> bool:
    """Whether two texts are equal in one of their `readings`.

    `[[1, 2], [3, 4]]`, `((1,2),(3,4))` and `1 2⏎3 4` are one grid.
    """
    expected_readings = list(readings(expected))
    return any(reading == other for reading in readings(given) for other in expected_readings)


def share_of_cells(given: str, expected: str) -> float:
    """The share of cells that hold the right value in the right place, in [0, 1].

    A cell is a number, a text, a truth value, null, or an empty list or dictionary; its place is the indices and keys
    that lead to it. The share is of the larger of both numbers of cells, so that surplus cells cost as much as missing
    ones; where the data have several `readings`, the best counts.
    """
    pairs = [(dict(cells(a)), dict(cells(b))) for a in readings(given) for b in readings(expected)]
    return max(sum(a.get(place) == value for place, value in b.items()) / max(len(a), len(b), 1) for a, b in pairs)


def normalised(text: str) -> str:
    """A text without differences of case, width (Unicode NFKC), white space, wrapping marks and final full stops."""
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.lstrip(WRAPPING + " ").rstrip(WRAPPING + " .")


def readings(text: str) -> Iterator[Any]:
    """The data that a text may spell out, in a canonical form.

    JSON, or a Python literal, has one reading. Any other text is read as rows of cells, which are separated by `|`,
    else by commas, else by white space: as a grid, if there is a single row or column also as a list, and as the text
    itself. A code fence around it does not count.

    Lists and tuples are lists, keys are texts, texts are `normalised`; the text of a number is that number, and a truth
    value is not one.
    """
    fenced = FENCE.fullmatch(text.strip())
    text = (fenced[1] if fenced else text).strip()
    try:
        yield canonical(_parsed(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        grid = [[canonical(cell) for cell in row] for row in _rows(text)]
        yield grid
        if len(grid) == 1:
            yield grid[0]
        elif all(len(row) == 1 for row in grid):
            yield [row[0] for row in grid]
        yield canonical(text)


def cells(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(place, value) of every cell of canonical data."""
    if isinstance(data, list | dict) and data:
        for key, item in data.items() if isinstance(data, dict) else enumerate(data):
            yield from cells(item, (*place, key))
    else:
        yield place, data


def canonical(data: Any) -> Any:
    """Data of lists, dictionaries with text keys, and cells that are equal only if they mean the same."""
    if isinstance(data, dict):
        return {normalised(str(key)): canonical(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [canonical(item) for item in data]
    if isinstance(data, set | frozenset):
        return sorted((canonical(item) for item in data), key=repr)
    if isinstance(data, str):
        return _number(data) or normalised(data)
    return _number(repr(data)) or normalised(str(data))


def _number(text: str) -> tuple[int | float] | None:
    """A finite number, in a tuple of its own that no list, text or truth value equals; whole ones exactly."""
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return (number,) if math.isfinite(number) else None
    return None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of what the completion wrote
            return ast.literal_eval(text)


def _rows(text: str) -> Sequence[Sequence[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ruled = [line for line in lines if not re.fullmatch(r"[|\s:+-]*-[|\s:+-]*", line)]  # not those under a table's head
    return [_split(line) for line in ruled or lines]


def _split(line: str) -> list[str]:
    if "|" in line:
        return line.strip("|").split("|")
    return line.split(",") if "," in line else line.split()
