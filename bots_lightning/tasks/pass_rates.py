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
NAMED = 3  # ids in a message


class WithPassRates(TaskSource):
    """The tasks of any source, with pass rates that `callbacks.PassRateWriter` has measured as reference columns.

    A table is joined by task id, whatever its order. A task that it does not hold has an unknown pass rate.

    Args:
        source: the tasks.
        tables: the Parquet file with the columns `id` and `pass_rate`, by the name of the reference column.
    """

    def __init__(self, source: TaskSource, tables: dict[str, str]) -> None:
        if not tables:
            raise ValueError("tables is empty; expected at least one file by the name of its reference column.")
        self.source = source
        self.tables = tables

    def load(self) -> TaskPool:
        """Loads source and tables; logs how many tasks have no pass rate, and which rows have no task.

        Raises:
            FileNotFoundError: a table is not there.
            ValueError: a table belongs to another pool or is no table of pass rates, or the pool has its column.
        """
        pool = self.source.load()
        taken = sorted(set(self.tables) & {*pool.table.column_names, "group"})
        if taken:
            raise ValueError(f"the pool has the columns {taken} already. Name the reference columns differently.")
        columns = {name: _joined(pool, name, Path(path).expanduser()) for name, path in self.tables.items()}
        return pool.with_columns(columns, [*pool.references, *columns])


def read_pass_rates(path: Path) -> pa.Table:
    """The columns `id` and `pass_rate` of a table, each (M,), checked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no such columns, an id twice, or a pass rate outside [0, 1].
    """
    if not path.is_file():
        begun = f"; {journals(path)[0]} shows that it was begun: run that again" if journals(path) else ""
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
    """What the ranks of a run that writes this table have left so far: STEM.rank-R.jsonl beside it."""
    pattern = re.compile(re.escape(table.stem) + r"\.rank-\d+\.jsonl")
    return sorted(path for path in table.parent.glob("*.jsonl") if pattern.fullmatch(path.name))


def _joined(pool: TaskPool, name: str, path: Path) -> list[float | None]:
    """(N,) the pass rates of the pool's tasks."""
    table = read_pass_rates(path)
    measured, tasks = table["id"].cast(pa.string()), pool.table["id"].cast(pa.string())
    if not pc.any(pc.is_in(tasks, value_set=measured)).as_py():
        raise ValueError(
            f"{path} holds pass rates of another pool: none of its {len(table)} ids, such as "
            f"{measured[:NAMED].to_pylist()}, is among the pool's, such as {pool.ids[:NAMED]}. Profile this pool: "
            f"{HOW}"
        )
    rates = table["pass_rate"].take(pc.index_in(tasks, value_set=measured))
    strangers = measured.filter(pc.invert(pc.is_in(measured, value_set=tasks)))
    if len(strangers):
        named = ", ".join(map(repr, strangers[:NAMED].to_pylist())) + (", …" if len(strangers) > NAMED else "")
        log.warning("%s: %d tasks are not in the pool and left out: %s", path, len(strangers), named)
    log.info("%s: %s of %d tasks, %d unknown", path, name, len(pool), rates.null_count)
    return rates.to_pylist()
