"""Thousands of verifiable tasks from a seed, without files: the base of generated tasks, and those of characters."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import product
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from bots_lightning.options import check_numbers, check_option
from bots_lightning.tasks.pool import TaskPool
from bots_lightning.tasks.procedural import logic, maths, strings
from bots_lightning.tasks.procedural.draw import LEVELS, Family
from bots_lightning.tasks.prompts import Example, chats_of
from bots_lightning.tasks.source import TaskSource
from bots_lightning.tasks.task import task_id

ALPHABET = " ,:=+-*&|^<>0123456789abcdefghijlmnopqrstuvx"
"""All characters of prompts and answers."""

DOMAINS = {"maths": maths.FAMILIES, "logic": logic.FAMILIES, "strings": strings.FAMILIES}
FAMILIES: dict[str, Family] = {name: family for families in DOMAINS.values() for name, family in families.items()}
DOMAIN_OF = {name: domain for domain, families in DOMAINS.items() for name in families}

SHOWN = 1  # seeds the tasks that are shown
# A cell without a new prompt in this many draws counts as exhausted.
MAX_DRAWS = 1_000

Split = Literal["train", "heldout"]
Cell = tuple[str, int]
T = TypeVar("T", str, int)


def is_heldout(prompt: str) -> bool:
    """Whether a prompt belongs to the held-out eighth of all prompts, by a hash of its text."""
    return sha256(prompt.encode()).digest()[0] % 8 == 0


def draw(
    rng: np.random.Generator, generate: Family, level: int, heldout: bool, seen: frozenset[str] | set[str]
) -> tuple[str, str] | None:
    """Draws a new task of a family, a level and a split.

    Args:
        rng: of the draws.
        generate: the family.
        level: of the task.
        heldout: whether the prompt must be held out.
        seen: prompts that are not new.

    Returns:
        (prompt, answer); None if there is none within `MAX_DRAWS` draws.
    """
    for _ in range(MAX_DRAWS):
        prompt, answer = generate(rng, level)
        if prompt not in seen and is_heldout(prompt) == heldout:
            return prompt, answer
    return None


def sample_examples(
    rng: np.random.Generator, n: int, families: Sequence[str] | None = None, levels: Sequence[int] | None = None
) -> list[tuple[str, str]]:
    """Draws n tasks of the train split, for supervised training.

    Args:
        rng: of the draws.
        n: number of tasks. Prompts may repeat, since small cells hold fewer than a hundred.
        families: names from `FAMILIES`, drawn uniformly; None uses all.
        levels: from 1 to 8, drawn uniformly; None uses all.

    Returns:
        A list of (prompt, answer).

    Raises:
        ValueError: there is no such family or level.
    """
    cells = list(product(_chosen("families", families, tuple(FAMILIES)), _chosen("levels", levels, LEVELS)))
    drawn = [cells[i] for i in rng.integers(len(cells), size=n).tolist()]
    examples = [draw(rng, FAMILIES[family], level, heldout=False, seen=frozenset()) for family, level in drawn]
    return [example for example in examples if example is not None]


class GeneratedTasks(TaskSource):
    """Tasks of families of generators, each at several levels, drawn from a seed. Subclasses set the three tables.

    Tasks are drawn from families and levels in rotation; an exhausted cell is skipped. A smaller pool is a prefix of a
    larger one with the same seed. Train and held-out pools never share a prompt, whatever their seeds and sizes.
    Columns: `group` (the domain), `family`, `level`; of prompts that are chats also `question`, what is asked.

    Args:
        num_tasks: N.
        seed: of the generator; the same seed and split give the same pool everywhere.
        split: "train", or "heldout" for the held-out eighth of all prompts.
        families: names of families; None uses all.
        levels: of difficulty, from 1; None uses all.
        system_prompt: system message of every prompt, which makes them chats.
        shots: how many tasks of the same family every prompt shows first, with their answers, which makes them chats.

    Raises:
        ValueError: an option is not allowed or out of range.
    """

    name: ClassVar[str]
    chat: ClassVar[bool] = False  # whether prompts are chats in any case
    all_families: ClassVar[Mapping[str, Family]]
    group_of: ClassVar[Mapping[str, str]]
    all_levels: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        num_tasks: int = 4000,
        seed: int = 0,
        split: Split = "train",
        families: list[str] | None = None,
        levels: list[int] | None = None,
        system_prompt: str | None = None,
        shots: int = 0,
    ) -> None:
        check_numbers(1, num_tasks=num_tasks)
        check_numbers(0, seed=seed, shots=shots)
        check_option("split", split, Split)
        self.system_prompt, self.shots = system_prompt, shots
        self.num_tasks = num_tasks
        self.seed = seed
        self.split = split
        self.families = _chosen("families", families, tuple(self.all_families))
        self.levels = _chosen("levels", levels, self.all_levels)

    def load(self) -> TaskPool:
        """Draws the pool; takes seconds for 100,000 tasks.

        Raises:
            ValueError: the cells hold fewer prompts than `num_tasks`.
        """
        rows = self._rows()
        if self.chat or self.system_prompt is not None or self.shots:
            shown = {family: self._shown(family) for family in self.families}
            rows = [row | self._chat(row["prompt"], shown[row["family"]]) for row in rows]
        return TaskPool.from_rows(rows, name=f"{self.name}-{self.split}")

    def _shown(self, family: str) -> list[Example]:
        """The tasks that those of a family show first, from its two lowest levels."""
        rng = np.random.default_rng(SHOWN)
        return [Example(*self.all_families[family](rng, self.all_levels[shot % 2])) for shot in range(self.shots)]

    def _chat(self, question: str, shown: list[Example]) -> dict[str, Any]:
        others = [example for example in shown if example.prompt != question]  # it must not show its own answer
        return {"prompt": chats_of([question], self.system_prompt, others)[0], "question": question}

    def _rows(self) -> list[dict[str, Any]]:
        """N tasks, their prompts as they are drawn."""
        rng = np.random.default_rng([self.seed, int(self.split == "heldout")])
        cells: deque[Cell] = deque((family, level) for level, family in product(self.levels, self.families))
        seen: set[str] = set()
        rows: list[dict[str, Any]] = []
        while cells and len(rows) < self.num_tasks:
            family, level = cell = cells.popleft()
            example = draw(rng, self.all_families[family], level, self.split == "heldout", seen)
            if example is not None:
                seen.add(example[0])
                rows.append(self._row(cell, *example))
                cells.append(cell)
        if len(rows) < self.num_tasks:
            raise ValueError(
                f"families={self.families}, levels={self.levels} have only {len(rows)} distinct {self.split} prompts; "
                f"expected num_tasks={self.num_tasks}. Lower num_tasks, or add families or levels."
            )
        return rows

    def _row(self, cell: Cell, prompt: str, answer: str) -> dict[str, Any]:
        family, level = cell
        return {
            "id": task_id(prompt, answer),
            "prompt": prompt,
            "answer": answer,
            "group": self.group_of[family],
            "family": family,
            "level": level,
        }


class ProceduralTasks(GeneratedTasks):
    """Character-level tasks in maths, logic and strings, drawn from a seed; every answer is exact.

    Levels go from 1 (trivial) to 8 (too hard for a tiny model). See `GeneratedTasks` for options and columns.
    """

    name = "procedural"
    all_families = FAMILIES
    group_of = DOMAIN_OF
    all_levels = LEVELS


def _chosen(name: str, chosen: Sequence[T] | None, known: Sequence[T]) -> list[T]:
    """The chosen values in the order given; all known ones if `chosen` is None."""
    if chosen is None:
        return list(known)
    unknown = [item for item in chosen if item not in known]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"{name}={list(chosen)}; expected one or more of {list(known)}, each once.")
    return list(chosen)
