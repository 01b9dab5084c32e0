"""Columns as Python sequences or Arrow data, conversions between the two, and concatenation of tables."""

# Shapes: N tasks.

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from reprlib import repr as short
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bots_lightning.tasks.places import Place

Column: TypeAlias = "Sequence[Any] | pa.ChunkedArray"

SLICE = 4096  # rows of Arrow data converted to Python objects at a time

# Errors of values that do not fit into one Arrow column.
MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)


def values(column: Column) -> Iterator[Any]:
    """Iterates over the values of a column, as Python objects."""
    if not isinstance(column, pa.ChunkedArray):
        yield from column
        return
    for start in range(0, len(column), SLICE):
        yield from column.slice(start, SLICE).to_pylist()


def value_at(column: Column, row: int) -> Any:
    """One value of a column, as a Python object."""
    return column[row].as_py() if isinstance(column, pa.ChunkedArray) else column[row]


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers, or only nulls."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))


def numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """The numbers of a column, (N,), NaN for null."""
    return pc.cast(column, pa.float64(), safe=False).to_numpy()


def arrow(name: str, column: Column, place: Place) -> pa.ChunkedArray:
    """Converts a column to Arrow data.

    Args:
        name: of the column, for the error message.
        column: N values.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row that does not fit those before it.
    """
    if isinstance(column, pa.ChunkedArray):
        return column
    try:
        array = pa.array(column)
    except MISFITS as error:
        row = _first_misfit(column)
        raise ValueError(
            f"{place(row)}: column {name!r} holds {short(column[row])}, which does not fit the rows before it "
            f"({error}). Write one type of value in all rows, e.g. strings."
        ) from error
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place(_first_misfit(column))}: column {name!r} holds an unpaired surrogate ({error}). "
            "Remove it, or write both characters of the surrogate pair."
        ) from error
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def stacked(tables: Mapping[str, pa.Table]) -> pa.Table:
    """Concatenates the rows of tables; a column that a table lacks is null there.

    Args:
        tables: by their name in error messages.

    Raises:
        ValueError: names the first table whose columns do not fit those before it.
    """
    schema = pa.schema([])
    for name, table in tables.items():
        try:
            schema = pa.unify_schemas([schema, table.schema], promote_options="permissive")
        except MISFITS as error:
            raise ValueError(
                f"the columns of {name} do not fit those of {next(iter(tables))} and the tables after it ({error}). "
                "Give a column one type everywhere, or rename it."
            ) from error
    return pa.concat_tables(tables.values(), promote_options="permissive")


def _first_misfit(column: Sequence[Any]) -> int:
    """The first row that does not fit into one column with those before it, by bisection."""
    low, high = 0, len(column)
    while low < high:
        middle = (low + high) // 2
        try:
            pa.array(column[: middle + 1])
        except (*MISFITS, UnicodeEncodeError):
            high = middle
        else:
            low = middle + 1
    return low


def is_null(value: Any) -> bool:
    """Whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def kind_of(value: Any) -> str:
    """The type of a value in words of JSON, for error messages."""
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")
