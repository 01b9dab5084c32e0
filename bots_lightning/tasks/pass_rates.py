"""Measured pass rates as reference columns of a pool."""

# Shapes: N tasks in the pool, M tasks in a table.

from __future__ import annotations

import logging
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bots_lightning.tasks.checks import check_rates, check_unique
from bots_lightning.tasks.pool import TaskPool
from bots_lightning.tasks.source import TaskSource
from bots_lightning.tasks.texts import check_encoding

log = logging.getLogger(__name__)

HOW = "Write it with `bots-lightning predict --config configs/profile.yaml`."
NAMED = 3  # number of ids in a message


class WithPassRates(TaskSource):
    """Adds pass rates measured by `callbacks.PassRateWriter` to the tasks of a source, as reference columns.

    Tables are joined by task id. A task that a table does not contain has an unknown pass rate.

    Args:
        source: of the tasks.
        tables: name of each reference column -> Parquet file with the columns `id` and `pass_rate`.

    Raises:
        ValueError: there are no tables.
    """

    def __init__(self, source: TaskSource, tables: dict[str, str]) -> None:
        if not tables:
            raise ValueError("tables is empty; expected at least one file by the name of its reference column.")
        self.source = source
        self.tables = tables

    def load(self) -> TaskPool:
        """Loads source and tables; logs how many tasks have no pass rate, and which rows have no task.

        Raises:
            FileNotFoundError: a table does not exist.
            ValueError: a table belongs to another pool or holds no pass rates, or the pool has a column of its name.
        """
        pool = self.source.load()
        taken = sorted(set(self.tables) & {*pool.table.column_names, "group"})
        if taken:
            raise ValueError(f"the pool already has the columns {taken}. Choose other names for the reference columns.")
        columns = {name: _joined(pool, name, Path(path).expanduser()) for name, path in self.tables.items()}
        return pool.with_columns(columns, [*pool.references, *columns])


def read_pass_rates(path: Path) -> pa.Table:
    """Reads a table of pass rates and checks it.

    Args:
        path: of a Parquet file.

    Returns:
        A table with the columns `id` and `pass_rate`, M rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no such columns, an id twice, or a pass rate outside [0, 1].
    """
    if not path.is_file():
        begun = f"; {journals(path)[0]} is from an interrupted run: run it again" if journals(path) else ""
        raise FileNotFoundError(f"{path} is not a file (looked in {Path.cwd()}){begun}. {HOW}")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file, or damaged ({error}). {HOW}") from error
    if missing := [name for name in ("id", "pass_rate") if name not in table.column_names]:
        raise ValueError(f"{path} has no column {missing}; it has {table.column_names}. {HOW}")

    def place(row: int) -> str:
        return f"{path}, row {row}"

    check_encoding({"id": table["id"]}, place)
    check_unique(table["id"], place)
    check_rates("pass_rate", table["pass_rate"], place)
    return table.select(["id", "pass_rate"])


def journals(table: Path) -> list[Path]:
    """Journals of an unfinished run that writes this table: files STEM.rank-R.jsonl in its folder."""
    pattern = re.compile(re.escape(table.stem) + r"\.rank-\d+\.jsonl")
    return sorted(path for path in table.parent.glob("*.jsonl") if pattern.fullmatch(path.name))


def _joined(pool: TaskPool, name: str, path: Path) -> list[float | None]:
    """The pass rates of the pool's tasks, N numbers or None."""
    table = read_pass_rates(path)
    measured, tasks = table["id"].cast(pa.string()), pool.table["id"].cast(pa.string())
    if not pc.any(pc.is_in(tasks, value_set=measured)).as_py():
        raise ValueError(
            f"{path} holds pass rates of another pool: none of its {len(table)} ids, such as "
            f"{measured[:NAMED].to_pylist()}, is among the pool's, such as {pool.ids[:NAMED]}. Measure the pass rates "
            f"of this pool: {HOW}"
        )
    rates = table["pass_rate"].take(pc.index_in(tasks, value_set=measured))
    strangers = measured.filter(pc.invert(pc.is_in(measured, value_set=tasks)))
    if len(strangers):
        named = ", ".join(map(repr, strangers[:NAMED].to_pylist())) + (", …" if len(strangers) > NAMED else "")
        log.warning("%s: ignored %d tasks that are not in the pool: %s", path, len(strangers), named)
    log.info("%s: %s of %d tasks, %d unknown", path, name, len(pool), rates.null_count)
    return rates.to_pylist()
