"""Thousands of verifiable tasks from a seed: three domains, eight levels, no file needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from hashlib import sha256
from itertools import product
from typing import Literal, TypeVar

import numpy as np

from bots_lightning.tasks.pool import TaskPool, task_id
from bots_lightning.tasks.procedural import logic, maths, strings
from bots_lightning.tasks.procedural.draw import LEVELS, Family
from bots_lightning.tasks.source import TaskSource

ALPHABET = " ,:=+-*&|^<>0123456789abcdefghijlmnopqrstuvx"
"""The characters of all prompts and answers."""

DOMAINS = {"maths": maths.FAMILIES, "logic": logic.FAMILIES, "strings": strings.FAMILIES}
FAMILIES: dict[str, Family] = {name: family for families in DOMAINS.values() for name, family in families.items()}
DOMAIN_OF = {name: domain for domain, families in DOMAINS.items() for name in families}

# A cell without a new prompt in this many draws counts as exhausted.
MAX_DRAWS = 1_000

Cell = tuple[str, int]
T = TypeVar("T", str, int)


def is_heldout(prompt: str) -> bool:
    """Whether a prompt belongs to the held-out eighth; a property of its text, whatever the seed."""
    return sha256(prompt.encode()).digest()[0] % 8 == 0


def draw(
    rng: np.random.Generator, cell: Cell, heldout: bool, seen: frozenset[str] | set[str]
) -> tuple[str, str] | None:
    """One (prompt, answer) of a (family, level) and a split that is not in `seen`; None if none turns up."""
    family, level = cell
    generate = FAMILIES[family]
    for _ in range(MAX_DRAWS):
        prompt, answer = generate(rng, level)
        if prompt not in seen and is_heldout(prompt) == heldout:
            return prompt, answer
    return None


def sample_examples(
    rng: np.random.Generator, n: int, families: Sequence[str] | None = None, levels: Sequence[int] | None = None
) -> list[tuple[str, str]]:
    """A list of n (prompt, answer) of the train split, for supervised training.

    Families and levels (all by default) are drawn alike. Prompts may repeat: small cells hold fewer than a hundred.
    """
    cells = list(product(_chosen("families", families, tuple(FAMILIES)), _chosen("levels", levels, LEVELS)))
    examples = [draw(rng, cells[i], heldout=False, seen=frozenset()) for i in rng.integers(len(cells), size=n).tolist()]
    return [example for example in examples if example is not None]


class ProceduralTasks(TaskSource):
    """Character-level tasks in maths, logic and strings, drawn from a seed; every answer is exact.

    Families and levels take turns; a cell that has no further prompt leaves its turns to the others. A smaller pool
    is the beginning of a larger one of the same seed. Train and held-out pools never share a prompt, whatever their
    seeds and sizes. Columns: `group` (the domain), `family`, `level`.

    Args:
        num_tasks: N.
        seed: of the generator; the same seed and split give the same pool everywhere.
        split: which part of all prompts to draw from.
        families: names from `FAMILIES`; none takes all.
        levels: from 1 (trivial) to 8 (hopeless for a tiny model); none takes all.

    Raises:
        ValueError: an option is out of range, or (on loading) the cells hold fewer prompts than `num_tasks`.
    """

    def __init__(
        self,
        num_tasks: int = 4000,
        seed: int = 0,
        split: Literal["train", "heldout"] = "train",
        families: list[str] | None = None,
        levels: list[int] | None = None,
    ) -> None:
        if num_tasks < 1:
            raise ValueError(f"num_tasks={num_tasks}; expected at least 1.")
        if seed < 0:
            raise ValueError(f"seed={seed}; expected 0 or more.")
        if split not in ("train", "heldout"):
            raise ValueError(f"split={split!r}; expected 'train' or 'heldout'.")
        self.num_tasks = num_tasks
        self.seed = seed
        self.split = split
        self.families = _chosen("families", families, tuple(FAMILIES))
        self.levels = _chosen("levels", levels, LEVELS)

    def load(self) -> TaskPool:
        """Draws the pool; seconds for 100,000 tasks."""
        rng = np.random.default_rng([self.seed, int(self.split == "heldout")])
        cells: deque[Cell] = deque((family, level) for level, family in product(self.levels, self.families))
        seen: set[str] = set()
        rows: list[dict[str, str | int]] = []
        while cells and len(rows) < self.num_tasks:
            cell = cells.popleft()
            example = draw(rng, cell, self.split == "heldout", seen)
            if example is not None:
                seen.add(example[0])
                rows.append(_row(cell, *example))
                cells.append(cell)
        if len(rows) < self.num_tasks:
            raise ValueError(
                f"families={self.families}, levels={self.levels} gave {len(rows)} distinct {self.split} prompts; "
                f"num_tasks={self.num_tasks} were asked for. Lower num_tasks, or add families or levels."
            )
        return TaskPool.from_rows(rows, name=f"procedural-{self.split}")


def _row(cell: Cell, prompt: str, answer: str) -> dict[str, str | int]:
    family, level = cell
    return {
        "id": task_id(prompt, answer),
        "prompt": prompt,
        "answer": answer,
        "group": DOMAIN_OF[family],
        "family": family,
        "level": level,
    }


def _chosen(name: str, chosen: Sequence[T] | None, known: Sequence[T]) -> list[T]:
    """The chosen names, in the order given; all if none were named."""
    if chosen is None:
        return list(known)
    unknown = [item for item in chosen if item not in known]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"{name}={list(chosen)}; expected one or more of {list(known)}, each once.")
    return list(chosen)
