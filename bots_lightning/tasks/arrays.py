"""Columns that are Python sequences or Arrow data, the ways between the two, and tables that become one."""

# Shapes: N tasks.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from reprlib import repr as short
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = "Sequence[Any] | pa.ChunkedArray"

# Names a row for an error message: row -> "tasks.jsonl, line 7".
Place = Callable[[int], str]

SLICE = 4096  # rows of Arrow data that are Python objects at a time

# Reasons for which values do not fit into one Arrow column.
MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)


def values(column: Column) -> Iterator[Any]:
    """The column's values, one after the other."""
    if not isinstance(column, pa.ChunkedArray):
        yield from column
        return
    for start in range(0, len(column), SLICE):
        yield from column.slice(start, SLICE).to_pylist()


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers, or nothing but nulls."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind))


def numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """(N,) the numbers of a column, NaN for null."""
    return pc.cast(column, pa.float64(), safe=False).to_numpy()


def arrow(name: str, column: Column, place: Place) -> pa.ChunkedArray:
    """A column as Arrow data.

    Raises:
        ValueError: naming the first row that does not fit those before it.
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
            f"{place(_first_misfit(column))}: column {name!r} holds half a character ({error}). "
            "Remove it, or write both halves of the surrogate pair."
        ) from error
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def stacked(tables: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of all tables, one table after the other; a column that a table lacks is null there.

    Args:
        tables: by what they are called in the error message.

    Raises:
        ValueError: naming the first table whose columns do not fit those before it.
    """
    schema = pa.schema([])
    for name, table in tables.items():
        try:
            schema = pa.unify_schemas([schema, table.schema], promote_options="permissive")
        except MISFITS as error:
            raise ValueError(
                f"the columns of {name} do not fit those of {next(iter(tables))} and what follows it ({error}). "
                "Give a column one type everywhere, or rename it."
            ) from error
    return pa.concat_tables(tables.values(), promote_options="permissive")


def _first_misfit(column: Sequence[Any]) -> int:
    """The first row that cannot be of one column with those before it."""
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
