"""The rows of a file or a dataset, before they become a pool."""

# Shapes: N rows.

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bots_lightning.tasks.arrays import Column, arrow
from bots_lightning.tasks.checks import check_rates
from bots_lightning.tasks.formats import Format, find, rates_of_counts
from bots_lightning.tasks.places import Place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """The rows that a reader has read.

    Attributes:
        columns: N values each, by name.
        num_rows: N.
        place: describes where a row comes from.
        name: of the pool.
        row_word: what a row is called in messages: "row" or "line".
    """

    columns: dict[str, Column]
    num_rows: int
    place: Place
    name: str
    row_word: str = "row"


def column_of(rows: Rows, name: str) -> Column:
    """A column that exists, or the field of a struct for a dotted name."""
    column = find(rows.columns, name)
    assert column is not None
    return column


def first_of_each(table: pa.Table, path: str) -> npt.NDArray[np.int64]:
    """The rows of a table whose id has not occurred before, ascending; logs the number of other rows.

    Args:
        table: N rows with a column `id`.
        path: for the log.
    """
    codes = table["id"].combine_chunks().dictionary_encode().indices  # NumPy strings would drop trailing NULs
    first = np.unique(codes.to_numpy(), return_index=True)[1]
    if len(first) < table.num_rows:
        log.info("%s: %d rows removed whose id had occurred before", path, table.num_rows - len(first))
    return np.sort(first)


def checked_rates(kind: Format, references: list[str], rows: Rows) -> dict[str, Column]:
    """The reference columns, each (N,), as pass rates.

    Args:
        kind: the format of the rows, which tells which columns hold text such as "3/8".
        references: names of the columns.
        rows: the N rows.

    Raises:
        ValueError: names the first row that holds no pass rate.
    """
    rates = {}
    for name in references:
        rates[name] = column_of(rows, name)
        if name in kind.counts:
            rates[name] = rates_of_counts(name, rates[name], rows.place)
        check_rates(name, rates[name], rows.place)
    return rates


def arrow_columns(own: dict[str, Column], rows: Rows, others: list[str]) -> dict[str, pa.ChunkedArray]:
    """The columns of a pool as Arrow data.

    Args:
        own: the pool's own columns.
        rows: the N rows.
        others: names of further columns to keep; one with the name of an own column becomes `original_…`.

    Raises:
        ValueError: a name is taken, or a column holds values of different types.
    """
    columns = dict(own)
    for name in others:
        kept = f"original_{name}" if name in own else name
        if kept in columns or (kept != name and kept in rows.columns):
            raise ValueError(
                f"{rows.place(0)}: column {name!r} would be kept as {kept!r}, but there is a column of that name. "
                "Rename that one."
            )
        columns[kept] = rows.columns[name]
    return {name: arrow(name, column, rows.place) for name, column in columns.items()}
