"""The source of short questions in plain English."""

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.options import check_numbers
from bots_lightning.tasks.pool import TaskPool
from bots_lightning.tasks.procedural.source import GeneratedTasks, Split
from bots_lightning.tasks.prompts import Example, chats_of
from bots_lightning.tasks.questions.families import FAMILIES, GROUP_OF, LEVELS

SHOWN = 1  # seeds the questions that are shown


class QuestionTasks(GeneratedTasks):
    """Questions in one line, drawn from a seed, for small language models; every answer is exact.

    Families of word problems, numbers, dates, units, letters and programs, at levels from 1 to 4. None is answered by a
    constant, by a number that stands in the question or by repeating it. Prompts are chats. See
    `GeneratedTasks` for columns and the options that are not listed.

    Args:
        num_tasks: N.
        seed: of the generator; the same seed and split give the same pool everywhere.
        split: "train", or "heldout" for the held-out eighth of all questions.
        families: names of families; None uses all.
        levels: of difficulty, from 1 to 4; None uses all.
        system_prompt: system message of every prompt.
        shots: how many questions of the same family every prompt shows first, with their answers.

    Raises:
        ValueError: an option is not allowed or out of range.
    """

    name = "questions"
    all_families = FAMILIES
    group_of = GROUP_OF
    all_levels = LEVELS

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
        super().__init__(num_tasks, seed, split, families, levels)
        check_numbers(0, shots=shots)
        self.system_prompt, self.shots = system_prompt, shots

    def load(self) -> TaskPool:
        """Draws the pool.

        Raises:
            ValueError: the cells hold fewer questions than `num_tasks`.
        """
        shown = {family: self._shown(family) for family in self.families}
        rows = [row | self._chat(row["prompt"], shown[row["family"]]) for row in self._rows()]
        return TaskPool.from_rows(rows, name=f"{self.name}-{self.split}")

    def _shown(self, family: str) -> list[Example]:
        """The questions that those of a family show first, from its two lowest levels."""
        rng = np.random.default_rng(SHOWN)
        return [Example(*FAMILIES[family](rng, 1 + shot % 2)) for shot in range(self.shots)]

    def _chat(self, question: str, shown: list[Example]) -> dict[str, Any]:
        others = [example for example in shown if example.prompt != question]  # it must not show its own answer
        return {"prompt": chats_of([question], self.system_prompt, others)[0], "question": question}
