"""The pool: all tasks that a run may choose from, as an Arrow table."""

# Shapes: N tasks in the pool.

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.tasks.arrays import SLICE, Place, numbers, stacked, values
from bots_lightning.tasks.checks import check_no_nul, check_prompts, check_rates, check_unique
from bots_lightning.tasks.columns import PoolColumns
from bots_lightning.tasks.contents import Contents
from bots_lightning.tasks.prompts import as_prompt, is_text

Prompt = str | list[dict[str, str]]
OWN_COLUMNS = ("id", "prompt", "answer", "group")
MANY_CHUNKS = 1000  # beyond them, reading one row takes long
TASKS_AT_A_TIME = 256  # that are Python objects while a pool is iterated; one may have megabytes of tests


def task_id(prompt: Prompt, answer: str) -> str:
    """A stable name of a task without an id: 16 hex characters of the hash of its prompt and answer, as JSON."""
    if isinstance(prompt, str):
        asked = quoted(prompt)
    else:
        messages = (quoted(message["role"]) + ", " + quoted(message["content"]) for message in prompt)
        asked = f"[[{'], ['.join(messages)}]]" if prompt else "[]"
    return sha256(f"[{asked}, {quoted(answer)}]".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        id: names the task, stable across runs and files.
        prompt: a string, or chat messages with `role` and `content`.
        answer: what the reward function compares with.
        group: domain or data source; empty if the pool has none.
        columns: all other columns of the row, by name; reward functions receive them.
    """

    id: str
    prompt: Prompt
    answer: str
    group: str = ""
    columns: dict[str, Any] = field(default_factory=dict)


class TaskPool:
    """N tasks, in a fixed order.

    Args:
        table: N rows with `id` (string), `prompt` (string, or list of {role, content} structs), `answer` (string),
            if the tasks have groups `group` (string), and any further columns.
        references: names of numeric columns that hold the pass rates of reference models, null or NaN where unknown.
        name: for messages only.
        place: names a row of the table as a person would find it: "tasks.jsonl, line 7".

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
        """A pool of rows such as {"id": …, "prompt": …, "answer": …}; a key that a row lacks is null there."""
        names = dict.fromkeys(key for row in rows for key in row)
        return cls(pa.table({key: [row.get(key) for row in rows] for key in names}), references, name)

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(f"task index {index}; the pool has {len(self)} tasks, counted from 0.")
        return _task({name: self.table[name][int(index)].as_py() for name in self.table.column_names})

    def __iter__(self) -> Iterator[Task]:
        """All tasks, from first to last; faster than one by one."""
        for start in range(0, len(self), TASKS_AT_A_TIME):
            yield from map(_task, self.table.slice(start, TASKS_AT_A_TIME).to_pylist())

    @cached_property
    def ids(self) -> list[str]:
        """The N ids."""
        return self.table["id"].to_pylist()

    @property
    def extra_columns(self) -> list[str]:
        """Names of the columns that only reward functions read."""
        return [name for name in self.table.column_names if name not in OWN_COLUMNS]

    @cached_property
    def groups(self) -> npt.NDArray[np.str_]:
        """(N,) the group of each task; empty if the pool has no groups."""
        if "group" not in self.table.column_names:
            return np.empty(0, dtype=np.str_)
        groups = self.table["group"].combine_chunks().dictionary_encode(null_encoding="encode")
        labels = np.array([label or "" for label in groups.dictionary.to_pylist()], dtype=np.str_)
        return labels[groups.indices.to_numpy()]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex characters that stand for ids, order and reference pass rates, whatever the pool's name."""
        digest = sha256(b"[")
        for start in range(0, len(self), SLICE):  # the ids as one JSON list
            ids = json.dumps(self.table["id"].slice(start, SLICE).to_pylist())[1:-1]
            digest.update((ids if start == 0 else f", {ids}").encode())
        digest.update(b"]")
        for name in self.references:
            digest.update(self._rates(name).astype("<f8").tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def contents(self) -> Contents:
        """What prompts, answers and pass rates are, in hashes; about a second for a million tasks."""
        return Contents.of(self.table, self.references)

    def features(self) -> TaskFeatures:
        """What beliefs and selectors may know of the tasks; columns are read when they are asked for."""
        references = {name: self._rates(name) for name in self.references}
        return TaskFeatures(len(self), references, self.groups, self.fingerprint, PoolColumns(self.table))

    def extended(self, more: TaskPool) -> TaskPool:
        """This pool with further tasks behind its own; a column that one of the two lacks is null there.

        Raises:
            ValueError: an id appears in both, or the columns do not fit.
        """
        table = stacked({"the pool": self.table, "the further tasks": more.table})
        return TaskPool(table, self.references, self.name, places_of([self, more]))

    def with_columns(self, columns: Mapping[str, Sequence[Any]], references: Sequence[str]) -> TaskPool:
        """A pool with further (or replaced) columns of N values; `references` are all of its reference columns.

        Raises:
            ValueError: a column has another length, or the result is no valid pool.
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
        """The pool of some of the tasks, in the order of their positions in `indices`."""
        chosen = np.asarray(list(indices), dtype=np.int64)
        if ((chosen < 0) | (chosen >= len(self))).any():
            raise IndexError(f"task indices {chosen.min()} to {chosen.max()}; the pool has {len(self)}, from 0.")
        return TaskPool(
            self.table.take(pa.array(chosen)), self.references, self.name, chosen_places(self.place, chosen)
        )

    def where(self, chosen: npt.NDArray[np.bool_]) -> TaskPool:
        """The pool of the tasks that are chosen (N,), in their order."""
        place = chosen_places(self.place, np.flatnonzero(chosen))
        return TaskPool(self.table.filter(pa.array(chosen)), self.references, self.name, place)

    def _rates(self, name: str) -> npt.NDArray[np.float64]:
        """(N,) the pass rates of a reference column, NaN where unknown, the same bits for every NaN."""
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
        """A task by its id and its place."""
        return f"task {self.ids[row]!r} ({self.place(row)})"


def chosen_places(place: Place, rows: npt.NDArray[np.int64]) -> Place:
    """Where the tasks of a part lie: those of these (n,) rows of the whole."""
    kept = rows.astype(np.min_scalar_type(int(rows.max(initial=0))))  # a pool may have millions
    return lambda row: place(int(kept[row]))


def places_of(pools: Sequence[TaskPool]) -> Place:
    """Where the tasks of several pools lie, one pool after the other."""
    ends, places = list(accumulate(map(len, pools))), [pool.place for pool in pools]

    def place(row: int) -> str:
        at = bisect_right(ends, row)
        return places[at](row - (ends[at - 1] if at else 0))

    return place


def _task(row: dict[str, Any]) -> Task:
    own = {name: row.pop(name) or "" for name in OWN_COLUMNS if name in row}
    return Task(**own | {"prompt": as_prompt(own["prompt"])}, columns=row)
