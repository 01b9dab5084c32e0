"""One source, two pools that never share a task: for training, and held out for evaluation."""

# Shapes: N tasks in the pool.

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Literal

import numpy as np

from bots_lightning.tasks.arrays import values
from bots_lightning.tasks.pool import Prompt, TaskPool
from bots_lightning.tasks.source import TaskSource


class SplitTasks(TaskSource):
    """The training or the held-out part of a source.

    A task's part depends on its own hash alone: not on the order of the file, nor on the other tasks, and what is held
    out at one fraction stays so at a larger one. By prompt, tasks that ask the same under different ids or with
    different system messages or white space are never parted, which would leak. By id, a task that is reworded stays
    where it is; then see to it yourself that no prompt appears twice.

    Args:
        source: the tasks, the same for both parts.
        split: which part.
        heldout_fraction: about this share of the tasks is held out.
        by: what is hashed.
        salt: another text gives another division.
    """

    def __init__(
        self,
        source: TaskSource,
        split: Literal["train", "heldout"] = "train",
        heldout_fraction: float = 0.1,
        by: Literal["prompt", "id"] = "prompt",
        salt: str = "",
    ) -> None:
        if split not in ("train", "heldout") or by not in ("prompt", "id"):
            raise ValueError(f"split={split!r}, by={by!r}; expected train or heldout, by prompt or id.")
        if not 0 < heldout_fraction < 1:
            raise ValueError(f"heldout_fraction={heldout_fraction}; expected more than 0 and less than 1.")
        self.source = source
        self.split = split
        self.heldout_fraction = heldout_fraction
        self.by = by
        self.salt = salt

    def load(self) -> TaskPool:
        """Loads the source and takes the part.

        Raises:
            ValueError: the part is empty.
        """
        pool = self.source.load()
        places = (_place(f"{self.salt}\n{key}") for key in self._keys(pool))
        heldout = np.fromiter(places, np.float64, len(pool)) < self.heldout_fraction
        chosen = heldout if self.split == "heldout" else ~heldout
        if not chosen.any():
            raise ValueError(
                f"heldout_fraction={self.heldout_fraction} of {len(pool)} tasks leaves none for split={self.split!r}. "
                "Choose a fraction nearer to one half, or add tasks."
            )
        return pool.where(chosen)

    def _keys(self, pool: TaskPool) -> Iterator[str]:
        column = values(pool.table[self.by])
        return column if self.by == "id" else map(question, column)


def question(prompt: Prompt) -> str:
    """What a prompt asks: a string or its messages but the system's, with single spaces for white space."""
    messages = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt if m["role"] != "system"]
    return " ".join(" ".join(messages).split())


def _place(key: str) -> float:
    """A number in [0, 1) that the text alone determines, uniform over texts."""
    return int.from_bytes(sha256(key.encode()).digest()[:6], "big") / 2**48
