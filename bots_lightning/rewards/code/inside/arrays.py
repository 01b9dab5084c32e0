"""Arrays and numbers of numpy as plain data, where the test code or the program uses numpy.

Only those whose bytes are numbers; an array of objects stays an object of its own side.
"""

from __future__ import annotations

import sys
from typing import Any

KINDS = "biufc"  # bool, int, unsigned, float, complex


def row(value: Any) -> list[Any] | None:
    """The row of an array or of one number; None for anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if type(value) is numpy.ndarray and value.dtype.kind in KINDS:
        return ["array", value.dtype.str, value.tobytes().hex(), list(value.shape)]
    if isinstance(value, numpy.generic) and type(value).__module__ == "numpy" and value.dtype.kind in KINDS:
        return ["number", value.dtype.str, value.tobytes().hex()]
    return None


def value_of(row: list[Any]) -> Any:
    """The array or number of a row.

    Raises:
        ValueError: the row is no such thing.
        ImportError: there is no numpy.
    """
    import numpy

    kind = numpy.dtype(str(row[1]))
    if kind.kind not in KINDS:
        raise ValueError(f"an array of {kind}")
    numbers = numpy.frombuffer(bytes.fromhex(row[2]), kind)
    if row[0] == "number":
        (number,) = numbers
        return number
    return numbers.reshape(row[3]).copy()


def fill(value: Any, row: list[Any]) -> None:
    """Gives an array the content of a row.

    Raises:
        TypeError: it is another array.
    """
    import numpy

    content = value_of(row)
    if type(value) is not numpy.ndarray or (value.dtype, value.shape) != (content.dtype, content.shape):
        raise TypeError(f"an array for what was a {type(value).__name__}, or another array")
    if value.tobytes() != content.tobytes():
        numpy.copyto(value, content)


def plain(value: Any) -> Any:
    """Converts an array to lists and one of its numbers to a Python number; returns anything else unchanged."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        return value
    return value.tolist()
