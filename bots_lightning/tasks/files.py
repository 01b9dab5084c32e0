"""Task pools from files: JSONL (one JSON object per line) or Parquet."""

# Shapes: N tasks.

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bots_lightning.tasks.arrays import Column, stacked
from bots_lightning.tasks.places import Place
from bots_lightning.tasks.rows import Rows
from bots_lightning.tasks.tables import TableTasks
from bots_lightning.tasks.texts import StrictJSONError, read_json

PARQUET_MAGIC = b"PAR1"
# A Parquet file is read in batches, so that it takes little more memory than its rows.
BATCH_ROWS = 16_384
BUFFER_BYTES = 2**20


class JsonlTasks(TableTasks):
    """Tasks of a JSONL file, of all *.jsonl in a folder, or of the files that match a glob: one object per line.

    Blank lines are skipped. A key that some lines lack is null there. For the options, see `TableTasks`.
    """

    def _read(self) -> Rows:
        files = find_files(self.path, "*.jsonl")
        rows: list[dict[str, Any]] = []
        numbers: list[int] = []
        counts = []
        for file in files:
            before = len(rows)
            self._read_file(file, rows, numbers)
            counts.append(len(rows) - before)
        names = dict.fromkeys(name for row in rows for name in row)
        columns: dict[str, Column] = {name: [row.get(name) for row in rows] for name in names}
        place = _place(files, counts, "line", np.array(numbers))
        return Rows(columns, len(rows), place, Path(self.path).stem, "line")

    def _read_file(self, file: Path, rows: list[dict[str, Any]], numbers: list[int]) -> None:
        """Appends a file's objects, up to `limit` in total, and their line numbers."""
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if len(rows) == self.limit:
                    return
                if line.strip():
                    rows.append(_object(file, number, line))
                    numbers.append(number)


class ParquetTasks(TableTasks):
    """Tasks of a Parquet file, of all *.parquet in a folder, or of the files that match a glob.

    Rows are counted from 0 in each file. Columns stay Arrow data and are not copied. A column that some files lack is
    null there. For the options, see `TableTasks`.
    """

    def _read(self) -> Rows:
        files = find_files(self.path, "*.parquet")
        tables: list[pa.Table] = []
        for file in files:
            left = None if self.limit is None else self.limit - sum(map(len, tables))
            tables.append(_read_parquet(file, left))
            _check_names(file, tables[-1].column_names)
        table = stacked(dict(zip(map(str, files), tables, strict=True)))
        columns = dict(zip(table.column_names, map(_decoded, table.columns), strict=True))
        place = _place(files, [len(table) for table in tables], "row")
        return Rows(columns, table.num_rows, place, Path(self.path).stem)


def find_files(path: str | Path, pattern: str) -> list[Path]:
    """Finds the files of a path.

    Args:
        path: a file, a folder, or a glob with * or ?.
        pattern: the glob that files of a folder must match.

    Returns:
        At least one file, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    here = Path(path).expanduser()
    if here.is_file():
        return [here]
    if here.is_dir():
        files = sorted(file for file in here.glob(pattern) if file.is_file())
        if not files:
            raise FileNotFoundError(f"the folder {here} has no {pattern}. Correct the source's `path`.")
        return files
    files = sorted(Path(file) for file in glob(str(here), recursive=True) if Path(file).is_file())
    if not files:
        found = "matches no file" if any(sign in str(here) for sign in "*?[") else "is not a file"
        raise FileNotFoundError(f"{here} {found} (looked in {Path.cwd()}). Correct the source's `path`.")
    return files


def _place(
    files: Sequence[Path], counts: Sequence[int], word: str, numbers: npt.NDArray[np.int64] | None = None
) -> Place:
    """Describes a row by its file and its number there; without `numbers`, rows are counted from 0 in each file."""
    ends = list(accumulate(counts))

    def place(row: int) -> str:
        file = bisect_right(ends, row)
        number = row - (ends[file] - counts[file]) if numbers is None else numbers[row]
        return f"{files[file]}, {word} {number}"

    return place


def _object(file: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parses one line as a JSON object."""
    if number == 1 and line.startswith(PARQUET_MAGIC):
        raise ValueError(f"{file} is a Parquet file, not JSON lines. Use ParquetTasks.")
    try:
        row = read_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}, line {number}: not UTF-8 ({error}). Save the file as UTF-8.") from error
    except StrictJSONError as error:
        raise ValueError(f"{file}, line {number}: {error}") from error
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits and deep nesting
        raise ValueError(
            f"{file}, line {number}: not JSON ({error}). Write one complete JSON object per line."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            f"{file}, line {number}: a {type(row).__name__}, not an object. Write each task as "
            '{"prompt": …, "answer": …} on a line of its own.'
        )
    return row


def _read_parquet(path: Path, limit: int | None) -> pa.Table:
    """The first rows of a file; the rest is not read."""
    with path.open("rb") as file:
        magic = file.read(len(PARQUET_MAGIC))
    batches: list[pa.RecordBatch] = []
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                if limit is not None and sum(map(len, batches)) >= limit:
                    break
                batches.append(batch)
                pa.default_memory_pool().release_unused()
            return pa.Table.from_batches(batches, file.schema_arrow).slice(0, limit)
    except (pa.ArrowInvalid, OSError) as error:
        if "Invalid UTF8" in str(error):  # in a dictionary-encoded column
            raise ValueError(f"{path} holds text that is not UTF-8 ({error}). Write it as UTF-8.") from error
        if magic == PARQUET_MAGIC:
            raise ValueError(f"{path} is truncated or damaged ({error}). Write or download it again.") from error
        raise ValueError(f"{path} is not a Parquet file ({error}). Use JsonlTasks for JSON lines.") from error


def _check_names(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has several columns named {twice}; expected one of each. Rename or drop some.")


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a dictionary-encoded column; other columns unchanged."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
