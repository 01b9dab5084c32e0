"""The pool: all tasks that a run may choose from, as an Arrow table."""

# Shapes: N tasks in the pool.

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.tasks.arrays import SLICE, numbers, stacked, values
from bots_lightning.tasks.checks import check_no_nul, check_rates, check_unique
from bots_lightning.tasks.columns import PoolColumns
from bots_lightning.tasks.contents import Contents
from bots_lightning.tasks.places import Place, chosen_places, joined_places
from bots_lightning.tasks.prompt_checks import check_prompts
from bots_lightning.tasks.prompts import as_prompt, is_text
from bots_lightning.tasks.task import Prompt, Task, task_id

__all__ = ["Prompt", "Task", "TaskPool", "task_id"]

OWN_COLUMNS = ("id", "prompt", "answer", "group")
MANY_CHUNKS = 1000  # with more chunks, reading one row takes long
TASKS_AT_A_TIME = 256  # converted to Python objects during iteration; a task may have megabytes of tests


class TaskPool:
    """N tasks, in a fixed order.

    Args:
        table: N rows with `id` (string), `prompt` (string, or list of {role, content} structs), `answer` (string),
            optionally `group` (string), and any further columns.
        references: names of numeric columns that hold the pass rates of reference models, null or NaN where unknown.
        name: for messages only.
        place: describes where a row of the table comes from: "tasks.jsonl, line 7".

    Raises:
        ValueError: a column is missing or of the wrong type, there is no task, a prompt is empty, an answer is null,
            an id appears twice, or a reference pass rate lies outside [0, 1].
    """

    def __init__(
        self, table: pa.Table, references: Sequence[str] = (), name: str = "", place: Place = "row {}".format
    ) -> None:
        chunks = max((column.num_chunks for column in table.columns), default=0)
        self.table = table.combine_chunks() if chunks > MANY_CHUNKS else table
        self.references = tuple(references)
        self.name = name
        self.place = place
        self._check()

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], references: Sequence[str] = (), name: str = "") -> TaskPool:
        """Makes a pool from dictionaries.

        Args:
            rows: such as {"id": …, "prompt": …, "answer": …}; a key that a row lacks is null there.
            references: names of keys that hold reference pass rates.
            name: for messages only.

        Raises:
            ValueError: the rows are not valid tasks.
        """
        names = dict.fromkeys(key for row in rows for key in row)
        return cls(pa.table({key: [row.get(key) for row in rows] for key in names}), references, name)

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(f"task index {index}; the pool has {len(self)} tasks, counted from 0.")
        return _task({name: self.table[name][int(index)].as_py() for name in self.table.column_names})

    def __iter__(self) -> Iterator[Task]:
        """Iterates over all tasks; faster than indexing."""
        for start in range(0, len(self), TASKS_AT_A_TIME):
            yield from map(_task, self.table.slice(start, TASKS_AT_A_TIME).to_pylist())

    @cached_property
    def ids(self) -> list[str]:
        """The N ids."""
        return self.table["id"].to_pylist()

    @property
    def extra_columns(self) -> list[str]:
        """Names of all columns except id, prompt, answer and group."""
        return [name for name in self.table.column_names if name not in OWN_COLUMNS]

    @cached_property
    def groups(self) -> npt.NDArray[np.str_]:
        """The group of each task, (N,); empty if the pool has no groups."""
        if "group" not in self.table.column_names:
            return np.empty(0, dtype=np.str_)
        groups = self.table["group"].combine_chunks().dictionary_encode(null_encoding="encode")
        labels = np.array([label or "" for label in groups.dictionary.to_pylist()], dtype=np.str_)
        return labels[groups.indices.to_numpy()]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids, order and reference pass rates, 16 hex characters."""
        digest = sha256(b"[")
        for start in range(0, len(self), SLICE):  # hashes the ids as one JSON list
            ids = json.dumps(self.table["id"].slice(start, SLICE).to_pylist())[1:-1]
            digest.update((ids if start == 0 else f", {ids}").encode())
        digest.update(b"]")
        for name in self.references:
            digest.update(self._rates(name).astype("<f8").tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def contents(self) -> Contents:
        """Hashes of prompts, answers and pass rates; takes about a second for a million tasks."""
        return Contents.of(self.table, self.references)

    def features(self) -> TaskFeatures:
        """Features of the tasks, for beliefs and selectors; further columns are converted when they are read."""
        references = {name: self._rates(name) for name in self.references}
        return TaskFeatures(len(self), references, self.groups, self.fingerprint, PoolColumns(self.table))

    def extended(self, more: TaskPool) -> TaskPool:
        """A pool with the tasks of another one after its own; a column that one of them lacks is null there.

        Args:
            more: the tasks to add.

        Raises:
            ValueError: an id appears in both, or the columns do not fit together.
        """
        table = stacked({"the pool": self.table, "the further tasks": more.table})
        place = joined_places([len(self), len(more)], [self.place, more.place])
        return TaskPool(table, self.references, self.name, place)

    def with_columns(self, columns: Mapping[str, Sequence[Any]], references: Sequence[str]) -> TaskPool:
        """A pool with columns added or replaced.

        Args:
            columns: N values each, by name.
            references: names of all reference columns of the result.

        Raises:
            ValueError: a column has another length, or the result is not a valid pool.
        """
        table = self.table
        for name, column in columns.items():
            if len(column) != len(self):
                raise ValueError(f"column {name!r} has {len(column)} values; expected {len(self)}, one per task.")
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, pa.array(column))
        return TaskPool(table, references, self.name, self.place)

    def select(self, indices: Iterable[int]) -> TaskPool:
        """A pool of some of the tasks.

        Args:
            indices: their positions, in the order of the result.

        Raises:
            IndexError: a position is out of range.
        """
        chosen = np.asarray(list(indices), dtype=np.int64)
        if ((chosen < 0) | (chosen >= len(self))).any():
            raise IndexError(f"task indices {chosen.min()} to {chosen.max()}; the pool has {len(self)}, from 0.")
        return TaskPool(
            self.table.take(pa.array(chosen)), self.references, self.name, chosen_places(self.place, chosen)
        )

    def where(self, chosen: npt.NDArray[np.bool_]) -> TaskPool:
        """A pool of the tasks where `chosen`, (N,), is True."""
        place = chosen_places(self.place, np.flatnonzero(chosen))
        return TaskPool(self.table.filter(pa.array(chosen)), self.references, self.name, place)

    def _rates(self, name: str) -> npt.NDArray[np.float64]:
        """The pass rates of a reference column, (N,); unknown ones are the same NaN, bit for bit, for hashing."""
        rates = numbers(self.table[name])
        return np.where(np.isnan(rates), np.nan, rates)

    def _check(self) -> None:
        what = f"the pool {self.name!r}" if self.name else "the pool"
        if len(self) == 0:
            raise ValueError(f"{what} has no tasks; expected at least one. Add tasks to its source.")
        missing = [name for name in ("id", "prompt", "answer", *self.references) if name not in self.table.column_names]
        if missing:
            raise ValueError(
                f"{what} has no column {', '.join(map(repr, missing))}; it has {self.table.column_names}. "
                "Expected id, prompt, answer and every column named in `references`."
            )
        for name in ("id", "answer", "group"):
            if name in self.table.column_names:
                self._check_strings(name, nullable=name == "group")
        check_unique(self.table["id"], self.place)
        check_prompts(self.table["prompt"], self.named)
        for name in self.references:
            check_rates(name, self.table[name], self.named)

    def _check_strings(self, name: str, nullable: bool) -> None:
        column = self.table[name]
        if not (is_text(column.type) or pa.types.is_null(column.type)):
            raise ValueError(f"column {name!r} has the type {column.type}; expected strings. Convert its values first.")
        if column.null_count and not nullable:
            row = next(row for row, value in enumerate(values(column)) if value is None)
            place = self.place(row) if name == "id" else self.named(row)
            raise ValueError(f"{place}: the {name} is null. Fill it in or remove the task.")
        if name != "answer":
            check_no_nul(name, column, self.place)

    def named(self, row: int) -> str:
        """Describes a task by its id and its place."""
        return f"task {self.ids[row]!r} ({self.place(row)})"


def _task(row: dict[str, Any]) -> Task:
    own = {name: row.pop(name) or "" for name in OWN_COLUMNS if name in row}
    return Task(**own | {"prompt": as_prompt(own["prompt"])}, columns=row)
