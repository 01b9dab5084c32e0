"""The files of a run that measures pass rates: a journal per rank while it runs, one table at its end."""

# Shapes: N tasks in the pool.

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bots_lightning.checkpoints import put_in_place, unfinished
from bots_lightning.evaluation.pass_rates.journal import RUN, Count, Journal, Line, Run, lines
from bots_lightning.tasks.pass_rates import journals

COUNTS = pa.schema([("id", pa.string()), ("n", pa.int64()), ("successes", pa.float64()), ("pass_rate", pa.float64())])


class PassRateFiles:
    """Reads the counts measured so far, and writes the table. All ranks see the same folder.

    Args:
        table: the Parquet file; journals are beside it as STEM.rank-R.jsonl.
        run: what the pass rates depend on. Files of another run are refused.
        completions: file for the completions of all tasks, written at the end; None keeps none.
    """

    def __init__(self, table: Path, run: Run, completions: Path | None = None) -> None:
        self.table = table
        self.run: Run = json.loads(json.dumps(run))  # as read from a file
        self.completions = completions
        self._counts: dict[str, Count] | None = None
        self._ends: dict[Path, int] = {}  # how far each journal has been read, in bytes

    def discard_others(self) -> None:
        """Deletes files of these names if one is of another run."""
        first = [next(lines(path), None) for path in journals(self.table)]
        runs = [line.content.get(RUN) for line in first if line is not None]
        runs += [_run_of(self.table)] if self.table.exists() else []
        if any(run != self.run for run in runs):
            for path in (*journals(self.table), self.table):
                path.unlink(missing_ok=True)

    def measured(self) -> dict[str, Count]:
        """Reads which tasks need no further rollouts; each call reads only what is new.

        Returns:
            the count of each such task, by id.

        Raises:
            ValueError: a file is of another run, or damaged.
        """
        if self._counts is None:
            self._counts = dict(self._tabled())
        for path in journals(self.table):
            for line in lines(path, self._ends.get(path, 0)):
                if line.start == 0:
                    self._check(path, line.content.get(RUN))
                else:
                    self._counts |= _counts(line)
                self._ends[path] = line.end
        return self._counts

    def journal(self, rank: int) -> Journal:
        """Opens the journal of a rank for writing."""
        return Journal(self.table.with_name(f"{self.table.stem}.rank-{rank}.jsonl"), self.run)

    def finish(self, ids: Sequence[str]) -> pa.Table:
        """Writes table and completions; deletes the journals once all tasks are in the table.

        Args:
            ids: of the pool's N tasks, in its order.

        Returns:
            N rows; `n`, `successes` and `pass_rate` are null for a task that was not tried, and `pass_rate` for one
            without a graded rollout.

        Raises:
            ValueError: a file is of another run, or damaged.
        """
        if len(dict(self._tabled())) < len(ids):
            if self.completions is not None:
                self._write_completions(self.completions)
            self._write_table(ids)
        table = pq.read_table(self.table)
        if not table["n"].null_count:
            for path in journals(self.table):
                path.unlink()
        return table

    def _tabled(self) -> Iterator[tuple[str, Count]]:
        if self.table.exists():
            self._check(self.table, _run_of(self.table))
            columns = pq.read_table(self.table, columns=["id", "n", "successes"]).to_pydict()
            for task, n, successes in zip(columns["id"], columns["n"], columns["successes"], strict=True):
                if n is not None:
                    yield task, Count(n, successes)

    def _check(self, path: Path, theirs: Run | None) -> None:
        if theirs is None:
            raise ValueError(
                f"{path} was not written by PassRateWriter. Set another `file`, or `overwrite: true` to replace it."
            )
        names = [name for name in self.run | theirs if self.run.get(name) != theirs.get(name)]
        if names:
            differences = ", ".join(f"{name}={theirs.get(name)!r} there, {self.run.get(name)!r} here" for name in names)
            raise ValueError(
                f"{path} holds pass rates of another run: {differences}. Set another `file`, or `overwrite: true` to "
                "replace it."
            )

    def _write_table(self, ids: Sequence[str]) -> None:
        counts = self.measured()
        rows = [counts.get(task) for task in ids]
        columns = [
            ids,
            [None if row is None else row.n for row in rows],
            [None if row is None else row.successes for row in rows],
            [None if row is None else row.pass_rate for row in rows],
        ]
        table = pa.table(columns, schema=COUNTS)
        for name, kind in (("seed", pa.int64()), ("model", pa.string())):
            table = table.append_column(name, pa.repeat(pa.scalar(self.run[name], kind), len(ids)))
        self.table.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({RUN: json.dumps(self.run)}), unfinished(self.table))
        put_in_place(self.table)

    def _write_completions(self, path: Path) -> None:
        """Writes one completion per line, batches in the order of their first task in the pool."""
        found = (line for journal in journals(self.table) for line in lines(journal) if line.start > 0)
        places = {line.content["place"]: (line.path, line.start, line.end) for line in found}
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path).open("w", encoding="utf-8") as file:
            for place in sorted(places):
                file.writelines(_completion_lines(_content(*places[place])))
        put_in_place(path)


def _counts(line: Line) -> dict[str, Count]:
    columns = (line.content[name] for name in ("ids", "n", "successes"))
    return {task: Count(n, successes) for task, n, successes in zip(*columns, strict=True)}


def _run_of(table: Path) -> Run | None:
    """What a table's pass rates depend on; None if the table does not say."""
    try:
        metadata = pq.read_schema(table).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{table} is not a Parquet file, or damaged ({error}). Move it away.") from error
    return json.loads(metadata[RUN.encode()]) if RUN.encode() in metadata else None


def _content(path: Path, start: int, end: int) -> dict[str, Any]:
    with path.open("rb") as file:
        file.seek(start)
        return json.loads(file.read(end - start))


def _completion_lines(batch: dict[str, Any]) -> Iterator[str]:
    for task, completions, rewards in zip(batch["ids"], batch["completions"], batch["rewards"], strict=True):
        for completion, reward in zip(completions, rewards, strict=True):
            row = {"task_id": task, "completion": completion, "reward": reward}
            yield json.dumps(row, ensure_ascii=False) + "\n"
