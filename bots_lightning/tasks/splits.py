"""Splits a source into two disjoint pools: for training, and held out for evaluation."""

# Shapes: N tasks in the pool.

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Literal

import numpy as np

from bots_lightning.options import check_numbers, check_option
from bots_lightning.tasks.arrays import values
from bots_lightning.tasks.pool import TaskPool
from bots_lightning.tasks.source import TaskSource
from bots_lightning.tasks.task import Prompt

Split = Literal["train", "heldout"]
By = Literal["prompt", "id"]


class SplitTasks(TaskSource):
    """The training split or the held-out split of a source.

    The split of a task depends on its own hash alone, not on the order of the file or on other tasks, and tasks held
    out at one fraction are also held out at any larger one. Hashed by prompt, tasks with the same question but
    different ids, system messages or white space get the same split, which avoids leaks. Hashed by id, a reworded task
    keeps its split; then make sure that no prompt appears twice.

    Args:
        source: of the tasks, the same for both splits.
        split: which split to load.
        heldout_fraction: approximate share of the tasks that is held out.
        by: what is hashed.
        salt: a different string gives a different division.

    Raises:
        ValueError: an option is not allowed or out of range.
    """

    def __init__(
        self,
        source: TaskSource,
        split: Split = "train",
        heldout_fraction: float = 0.1,
        by: By = "prompt",
        salt: str = "",
    ) -> None:
        check_option("split", split, Split)
        check_option("by", by, By)
        check_numbers(0, above=True, high=1, below=True, heldout_fraction=heldout_fraction)
        self.source = source
        self.split = split
        self.heldout_fraction = heldout_fraction
        self.by = by
        self.salt = salt

    def load(self) -> TaskPool:
        """Loads the source and selects the tasks of the split.

        Raises:
            ValueError: the split has no tasks.
        """
        pool = self.source.load()
        places = (_place(f"{self.salt}\n{key}") for key in self._keys(pool))
        heldout = np.fromiter(places, np.float64, len(pool)) < self.heldout_fraction
        chosen = heldout if self.split == "heldout" else ~heldout
        if not chosen.any():
            raise ValueError(
                f"heldout_fraction={self.heldout_fraction} of {len(pool)} tasks leaves none for split={self.split!r}. "
                "Choose a fraction closer to one half, or add tasks."
            )
        return pool.where(chosen)

    def _keys(self, pool: TaskPool) -> Iterator[str]:
        column = values(pool.table[self.by])
        return column if self.by == "id" else map(question, column)


def question(prompt: Prompt) -> str:
    """The question of a prompt: its text without system messages, with white space normalized to single spaces."""
    messages = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt if m["role"] != "system"]
    return " ".join(" ".join(messages).split())


def _place(key: str) -> float:
    """Hashes a text to a number in [0, 1), uniformly."""
    return int.from_bytes(sha256(key.encode()).digest()[:6], "big") / 2**48
