"""`metrics.csv`: one row per logged step, kept whole when a run is resumed."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsCSV(Logger):
    """Writes `metrics.csv` in the run folder, and continues it when a run is resumed.

    Lightning's own CSVLogger deletes the file of an earlier run in the same folder. This one keeps its rows, but for
    those that the resumed run writes anew.

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
        """Empty: checkpoints go right below the run folder."""
        return ""

    @property
    def version(self) -> str:
        """Empty, as the name."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds to the row of a step."""
        row = {"step": step or 0} | {name: float(value) for name, value in metrics.items()}
        if not self._rows and self._last is not None and self._last["step"] == row["step"]:
            self._rewrite_without_last()
            self._rows = [self._last]
        if self._rows and self._rows[-1]["step"] == row["step"]:
            self._rows[-1] |= row
            return
        self._flush()
        self._rows.append(row)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Writes the last row, which a run that resumes from this checkpoint will not write again."""
        self._flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the last row; until then it may still grow."""
        self._flush()

    def _flush(self) -> None:
        """Appends the rows held back; rewrites the file when there are new columns."""
        if not self._rows:
            return
        if self._columns is None:
            self._rows = [row for row in read_metrics(self.path) if row["step"] < self._rows[0]["step"]] + self._rows
            self._columns = []
        new = [name for row in self._rows for name in row if name not in self._columns]
        if new:
            earlier = read_metrics(self.path) if self._columns else []
            self._columns = ["step", *sorted({*self._columns, *new} - {"step"})]
            self._write(earlier + self._rows, mode="w")
        else:
            self._write(self._rows, mode="a")
        self._last, self._rows = self._rows[-1], []

    def _rewrite_without_last(self) -> None:
        self._write(read_metrics(self.path)[:-1], mode="w")

    def _write(self, rows: list[dict[str, Any]], mode: str) -> None:
        """Appends, or puts another file in place of the old one at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path.with_name(".metrics.csv.unfinished") if mode == "w" else self.path
        with path.open(mode, newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self._columns or [])
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)
        path.replace(self.path)


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """The rows of a metrics file, empty cells left out; no rows where there is no file.

    A last line without an end is one that a kill has torn, and left out.
    """
    if not Path(path).is_file():
        return []
    whole = Path(path).read_text().rpartition("\n")[0]
    rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(whole.splitlines())]
    return [row | {"step": int(row["step"])} for row in rows]
