"""Task pools from files: one JSON object per line, or Parquet."""

# Shapes: N tasks.

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bots_lightning.tasks.checks import answer_texts, check_prompts, check_rates, id_texts
from bots_lightning.tasks.pool import TaskPool, task_id
from bots_lightning.tasks.source import TaskSource

# Column names that are recognised where the configuration names none, the first that is present.
ID_COLUMNS = ("id", "task_id")
ANSWER_COLUMNS = ("answer", "solution")
GROUP_COLUMNS = ("group", "data_source")


class FileTasks(TaskSource):
    """Tasks of one file. A reader of another format implements `_read`.

    Every row becomes a task; a row that cannot is an error. All columns stay under their own names. What serves as
    `id`, `prompt`, `answer` or `group` under another name is copied, and a column whose name it takes becomes
    `original_…`.

    Args:
        path: the file.
        prompt_column: strings, or lists of {role, content} messages.
        answer_column: strings or numbers; the default also finds `solution`.
        id_column: none takes `id` or `task_id` if present, else a hash of prompt and answer.
        group_column: domain or data source; none takes `group` or `data_source` if present.
        references: columns with the pass rates of reference models, in [0, 1], null where unknown.
        limit: only the first so many rows.
    """

    row_word = "row"

    def __init__(
        self,
        path: str | Path,
        prompt_column: str = "prompt",
        answer_column: str = "answer",
        id_column: str | None = None,
        group_column: str | None = None,
        references: list[str] | None = None,
        limit: int | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit}; expected at least 1, or none for all rows.")
        self.path = Path(path).expanduser()
        self.prompt_column = prompt_column
        self.answer_column = answer_column
        self.id_column = id_column
        self.group_column = group_column
        self.references = list(references or [])
        self.limit = limit
        self._numbers: list[int] = []

    @abstractmethod
    def _read(self) -> tuple[dict[str, Sequence[Any] | pa.ChunkedArray], list[int]]:
        """The columns, up to `limit` rows, and the number by which a person finds each row."""

    def load(self) -> TaskPool:
        """Reads and checks the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: naming file, row and remedy.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is not a file (looked in {Path.cwd()}). Correct the source's `path`.")
        columns, self._numbers = self._read()
        if not self._numbers:
            raise ValueError(f"{self.path} holds no tasks; expected one per {self.row_word}.")
        roles = self._roles(list(columns))
        own = self._own_columns({role: _values(columns[name]) for role, name in roles.items()})
        for name in self.references:
            self._require(list(columns), name, "references")
            check_rates(name, _values(columns[name]), self._place)
        others = {
            f"original_{name}" if name in own else name: values
            for name, values in columns.items()
            if roles.get(name) != name
        }
        table = pa.table({name: self._arrow(name, values) for name, values in (own | others).items()})
        return TaskPool(table, self.references, self.path.stem)

    def _roles(self, columns: list[str]) -> dict[str, str]:
        """Which column of the file is the prompt, the answer and, if there are such, the id and the group."""
        answer = self.answer_column
        if answer == ANSWER_COLUMNS[0]:
            answer = next((name for name in ANSWER_COLUMNS if name in columns), answer)
        roles = {"prompt": self.prompt_column, "answer": answer}
        for role, named, usual in (("id", self.id_column, ID_COLUMNS), ("group", self.group_column, GROUP_COLUMNS)):
            name = named or next((name for name in usual if name in columns), None)
            if name is not None:
                roles[role] = name
        for role, name in roles.items():
            self._require(columns, name, f"{role}_column")
        return roles

    def _require(self, columns: list[str], name: str, option: str) -> None:
        if name not in columns:
            raise ValueError(
                f"{self.path} has no column {name!r}; it has {columns}. Set `{option}` to what the file has."
            )

    def _own_columns(self, raw: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The columns of a pool from those of the file, each (N,), by role; checked."""
        check_prompts(raw["prompt"], self._place)
        answers = answer_texts(raw["answer"], self._place)
        ids = raw.get("id") or [task_id(*task) for task in zip(raw["prompt"], answers, strict=True)]
        own = {"id": id_texts(ids, self._place), "prompt": raw["prompt"], "answer": answers}
        if "group" in raw:
            own["group"] = ["" if group is None else str(group) for group in raw["group"]]
        return own

    def _arrow(self, name: str, values: Any) -> pa.Array | pa.ChunkedArray:
        """A column as Arrow data."""
        if isinstance(values, pa.ChunkedArray):
            return values
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            row = _first_misfit(values)
            raise ValueError(
                f"{self._place(row)}: column {name!r} holds {values[row]!r}, which does not fit the rows before it "
                f"({error}). Write one type of value in all rows, e.g. strings."
            ) from error

    def _place(self, row: int) -> str:
        return f"{self.path}, {self.row_word} {self._numbers[row]}"


class JsonlTasks(FileTasks):
    """Tasks of a JSONL file: one object per line; lines of white space are skipped."""

    row_word = "line"

    def _read(self) -> tuple[dict[str, Sequence[Any] | pa.ChunkedArray], list[int]]:
        rows, numbers = [], []
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(self._object(number, line))
                    numbers.append(number)
                if len(rows) == self.limit:
                    break
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}, numbers

    def _object(self, number: int, line: bytes) -> dict[str, Any]:
        """One line as a JSON object."""
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}, line {number}: not UTF-8 ({error}). Save the file as UTF-8.") from error
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.path}, line {number}: not JSON ({error}). Write one complete JSON object per line."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{self.path}, line {number}: a {type(row).__name__}, not an object. Write each task as "
                '{"prompt": …, "answer": …} on a line of its own.'
            )
        return row


class ParquetTasks(FileTasks):
    """Tasks of a Parquet file; rows count from 0."""

    def _read(self) -> tuple[dict[str, Sequence[Any] | pa.ChunkedArray], list[int]]:
        try:
            table = pq.read_table(self.path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.path} is not a Parquet file ({error}). Use JsonlTasks for JSON lines.") from error
        table = table.slice(0, self.limit)
        return dict(zip(table.column_names, table.columns, strict=True)), list(range(table.num_rows))


def _values(column: Any) -> list[Any]:
    return column.to_pylist() if isinstance(column, pa.ChunkedArray) else column


def _first_misfit(values: Sequence[Any]) -> int:
    """The first row without which the rows before it would have one type."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        try:
            pa.array(values[: middle + 1])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            high = middle
        else:
            low = middle + 1
    return low
