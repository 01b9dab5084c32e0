"""What a rank has measured so far: a file that is only appended to, and loses no batch that was once written.

The first line of a journal says what the pass rates depend on. Each further line is a batch: its task ids, the number
of graded rollouts of each task and the sum of their rewards, and the completions if they are kept. A line without an
end was cut off by a kill and does not count, so that a batch is there completely or not at all.
"""

# Shapes: B tasks in a batch.

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN = "bots_lightning_run"  # the key of a journal's first line
Run = dict[str, Any]  # what the pass rates depend on; at least `model` and `seed`


@dataclass(frozen=True)
class Count:
    """Rollouts and successes of one task.

    Attributes:
        n: graded rollouts.
        successes: the sum of their rewards, each in [0, 1].
    """

    n: int
    successes: float

    @property
    def pass_rate(self) -> float | None:
        """Mean reward; None if no rollout was graded."""
        return self.successes / self.n if self.n else None


@dataclass(frozen=True)
class Line:
    """One complete line of a journal.

    Attributes:
        path: of the journal.
        start: first byte of the line.
        end: first byte after it.
        content: of the line.
    """

    path: Path
    start: int
    end: int
    content: dict[str, Any]


class Journal:
    """Appends batches to the journal of one rank; each is on the disk when `append` returns.

    Args:
        path: of the file, which is continued if it exists; a line that was cut off is removed.
        run: what the pass rates depend on.
    """

    def __init__(self, path: Path, run: Run) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        end = max((line.end for line in lines(path)), default=0) if path.exists() else 0
        self.file = path.open("ab")
        self.file.truncate(end)
        if end == 0:
            self._write({RUN: run})

    def append(
        self,
        place: int,
        ids: Sequence[str],
        counts: Sequence[Count],
        completions: Sequence[Sequence[str]] | None = None,
        rewards: Sequence[Sequence[float | None]] | None = None,
    ) -> None:
        """Adds one batch.

        Args:
            place: position of its first task in the pool.
            ids: of its B tasks.
            counts: B of them.
            completions: of each task, to keep them.
            rewards: of these completions, None where none applied.
        """
        content = {"place": place, "ids": ids, "n": [c.n for c in counts], "successes": [c.successes for c in counts]}
        kept = {} if completions is None else {"completions": completions, "rewards": rewards}
        self._write(content | kept)

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def _write(self, content: dict[str, Any]) -> None:
        self.file.write(json.dumps(content).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())


def lines(path: Path, start: int = 0) -> Iterator[Line]:
    """The complete lines of a journal.

    Args:
        path: of the journal.
        start: first byte of the line to begin with.

    Raises:
        ValueError: a line before the last is not JSON.
    """
    with path.open("rb") as file:
        file.seek(start)
        for text in file:
            try:
                content = json.loads(text)
            except ValueError as error:
                if not file.read(1):
                    return  # the last line, cut off
                raise ValueError(
                    f"{path} is damaged at byte {start} ({error}). Delete it; what it holds is measured again."
                ) from error
            if not text.endswith(b"\n"):
                return
            yield Line(path, start, start + len(text), content)
            start += len(text)
