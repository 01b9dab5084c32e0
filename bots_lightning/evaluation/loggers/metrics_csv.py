"""`metrics.csv`: one row per logged step, continued when a run is resumed."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from bots_lightning.checkpoints import append_text, write_text


class MetricsCSV(Logger):
    """Writes `metrics.csv` in the run folder, and continues it when a run is resumed.

    Lightning's own CSVLogger deletes the file of an earlier run in the same folder. This one keeps its rows, except
    those that the resumed run writes again.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.path = self.folder / "metrics.csv"
        self._rows: list[dict[str, Any]] = []
        self._last: dict[str, Any] | None = None  # of the rows that are written
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Empty, so that checkpoints go directly into the run folder."""
        return ""

    @property
    def version(self) -> str:
        """Empty, for the same reason as `name`."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the resolved config has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds metrics to the row of a step."""
        row = {"step": step or 0} | {name: float(value) for name, value in metrics.items()}
        if not self._rows and self._last is not None and self._last["step"] == row["step"]:
            self._rows = [self._last]
        if self._rows and self._rows[-1]["step"] == row["step"]:
            self._rows[-1] |= row
            return
        self.flush()
        self._rows.append(row)

    @rank_zero_only
    def continue_after(self, step: int) -> None:
        """Deletes the rows after a step, which the resumed run writes again; that step's own row may still grow.

        Args:
            step: of the checkpoint.
        """
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        if self.path.is_file():
            self._rewrite(rows)
        self._last = rows[-1] if rows else None
        if self._last and self._rows and self._rows[0]["step"] == self._last["step"]:
            self._rows[0] = self._last | self._rows[0]
            self._last = self._rows[0]

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the last row."""
        self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Appends pending rows; rewrites the file for new columns, and for a last row that has grown.

        Raises:
            CheckpointError: the disk is full, or fails; file and rows are unchanged.
        """
        if not self._rows:
            return
        new = {name for row in self._rows for name in row} - set(self._columns or ())
        if new or self._rows[0] is self._last:
            self._rewrite(self._earlier() + self._rows)
        else:
            append_text(self.path, _lines(self._columns or [], self._rows))
        self._last, self._rows = self._rows[-1], []

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        columns = ["step", *sorted({name for row in rows for name in row} - {"step"})]
        write_text(self.path, _lines(columns, rows, header=True))
        self._columns = columns

    def _earlier(self) -> list[dict[str, float]]:
        """The rows on disk that are kept: not those that a resumed run writes again, nor one that has grown."""
        rows = read_metrics(self.path)
        if self._columns is None:
            return [row for row in rows if row["step"] < self._rows[0]["step"]]
        return rows[:-1] if self._rows[0] is self._last else rows


def _lines(columns: list[str], rows: list[dict[str, Any]], header: bool = False) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Reads a metrics file.

    A last line without an end was cut off by a kill and is left out. Other lines that cannot be read are left out with
    a warning.

    Args:
        path: of the file.

    Returns:
        a dict per row, without its empty cells; no rows where there is no file.
    """
    if not Path(path).is_file():
        return []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").rpartition("\n")[0].splitlines()
    columns = next(csv.reader(lines[:1]), [])
    rows, damaged = [], []
    for number, cells in enumerate(csv.reader(lines[1:]), start=2):
        if not cells:
            continue
        try:
            row = {name: float(cell) for name, cell in zip(columns, cells, strict=True) if cell}
            rows.append(row | {"step": int(row["step"])})
        except (ValueError, KeyError, OverflowError):
            damaged.append(number)
    if damaged:
        rank_zero_warn(f"{path}: damaged and left out are {len(damaged)} rows, the first in line {damaged[0]}.")
    return rows
