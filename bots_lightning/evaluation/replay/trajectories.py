"""Recorded trajectories: how often a policy solved each task in each epoch of one training run."""

# Shapes: N tasks, E recorded epochs.

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.tasks.checks import check_rates, id_texts
from bots_lightning.tasks.columns import PROMPT_LENGTH, log_lengths

IntArray = npt.NDArray[np.int64]
FORMAT = (
    '{"task_id": …, "prompt": …, "answer": …, "reference_pass_rate": 0.7, "successes": [3, 5, …], "rollouts": 8}; '
    "of the prompt the replay reads only the length; prompt, answer and reference may be absent"
)


@dataclass(frozen=True)
class Trajectories:
    """The record of a run on N tasks over E epochs.

    Attributes:
        ids: the N task ids.
        successes: (N, E) int, solved rollouts of each task in each epoch.
        rollouts: (N,) int, rollouts of each task in every epoch.
        reference: (N,) float, pass rate of another model, NaN where unknown.
        log_lengths: (N,) float, natural logarithm of the prompts' characters, NaN where there is no prompt.
    """

    ids: list[str]
    successes: IntArray
    rollouts: IntArray
    reference: npt.NDArray[np.float64]
    log_lengths: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for array in (self.successes, self.rollouts, self.reference):
            array.setflags(write=False)  # a selector sees copies and cannot rewrite the record

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_epochs(self) -> int:
        """E, the number of recorded epochs."""
        return self.successes.shape[1]

    def features(self, weak_from_first_epoch: bool) -> TaskFeatures:
        """What a selector may know of the tasks before the replay starts.

        The reference is called `strong_pass_rate`, and the first epoch's pass rate `weak_pass_rate`, as in the
        quickstart's pool; a column without any known value is left out.

        Args:
            weak_from_first_epoch: the first epoch serves as the weaker reference.
        """
        references: dict[str, npt.NDArray[np.float64]] = {}
        if weak_from_first_epoch:
            references["weak_pass_rate"] = self.successes[:, 0] / self.rollouts
        if np.isfinite(self.reference).any():
            references["strong_pass_rate"] = self.reference.copy()
        fingerprint = sha256(json.dumps(self.ids).encode()).hexdigest()[:16]
        lengths = np.full(len(self), np.nan) if self.log_lengths is None else self.log_lengths.copy()
        return TaskFeatures(len(self), references, fingerprint=fingerprint, columns={PROMPT_LENGTH: lengths})


def read_trajectories(path: str | Path) -> Trajectories:
    """Reads a JSONL file of recorded trajectories, one task per line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line cannot be read; names file, line and remedy.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file (looked in {Path.cwd()}). Correct --data.")
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_row(line, f"{path}, line {number}"))
                numbers.append(number)
    if not rows:
        raise ValueError(f"{path} holds no trajectories; expected one per line: {FORMAT}.")
    return _trajectories(rows, lambda row: f"{path}, line {numbers[row]}")


def _trajectories(rows: list[dict[str, Any]], place: Callable[[int], str]) -> Trajectories:
    ids = id_texts([row["task_id"] for row in rows], place)
    rates = [row.get("reference_pass_rate") for row in rows]
    check_rates("reference_pass_rate", rates, place)
    epochs = [len(row["successes"]) for row in rows]
    for row, length in enumerate(epochs):
        if length != epochs[0]:
            raise ValueError(
                f"{place(row)}: successes of {length} epochs, but those of {place(0)} cover {epochs[0]}. Record every "
                "task in every epoch, or cut all lists to the epochs they share."
            )
    return Trajectories(
        ids,
        np.array([row["successes"] for row in rows], dtype=np.int64),
        np.array([row["rollouts"] for row in rows], dtype=np.int64),
        np.array(rates, dtype=np.float64),
        log_lengths([row.get("prompt") for row in rows]),
    )


def _row(line: bytes, place: str) -> dict[str, Any]:
    """One line as an object whose counts are valid."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{place}: not JSON in UTF-8 ({error}). Write one object per line: {FORMAT}.") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a {type(row).__name__}, not an object. Write one object per line: {FORMAT}.")
    missing = [name for name in ("task_id", "successes", "rollouts") if name not in row]
    if missing:
        raise ValueError(f"{place}: no {', '.join(map(repr, missing))} among {sorted(row)}. Expected {FORMAT}.")
    rollouts, successes = row["rollouts"], row["successes"]
    if not _is_count(rollouts) or rollouts < 1:
        raise ValueError(f"{place}: rollouts={rollouts!r}; expected a whole number of at least 1.")
    if not isinstance(successes, list) or not successes:
        raise ValueError(f"{place}: successes={successes!r}; expected a list with one count per epoch.")
    for epoch, count in enumerate(successes):
        if not _is_count(count) or not 0 <= count <= rollouts:
            raise ValueError(
                f"{place}: {count!r} successes in epoch {epoch} (counted from 0); expected a whole number from 0 to "
                f"rollouts={rollouts}. Write counts, not pass rates."
            )
    return row


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
