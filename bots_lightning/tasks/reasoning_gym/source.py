"""The source of tasks of reasoning-gym."""

# Shapes: N tasks.

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from bots_lightning.options import check_numbers, check_option
from bots_lightning.tasks.pool import TaskPool
from bots_lightning.tasks.procedural.source import MAX_DRAWS, Split, is_heldout
from bots_lightning.tasks.prompts import Example, chats_of
from bots_lightning.tasks.reasoning_gym.generators import (
    DATASET_SIZE,
    HASH_ORDERED,
    UNSEEDED,
    Settings,
    entry_text,
    new_dataset,
)
from bots_lightning.tasks.source import TaskSource
from bots_lightning.tasks.task import task_id


@dataclass(frozen=True)
class _Stream:
    """An infinite stream of entries of one generator with certain settings."""

    generator: str
    settings: Settings
    seed: int

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields (category, entry) forever."""
        for number in count():
            sequence = np.random.SeedSequence([self.seed, number])  # datasets of close seeds share most entries
            dataset = new_dataset(self.generator, self.settings, int(sequence.generate_state(1)[0]))
            for i in range(DATASET_SIZE):
                yield dataset.category, self._entry(dataset, i)

    def _entry(self, dataset: Any, i: int) -> dict[str, Any]:
        try:
            return dataset[i]
        except Exception as error:  # generators raise what they like where settings leave no task; raised again
            raise ValueError(
                f"{self.generator} could not make a task with the settings {self.settings}: {error}. Widen them."
            ) from error


class ReasoningGymTasks(TaskSource):
    """Tasks of reasoning-gym (Stojanovski et al., arXiv:2505.24760), drawn from a seed.

    Tasks are drawn from the datasets in rotation; an exhausted dataset is skipped. A smaller pool is a prefix of a
    larger one with the same seed. Train and held-out pools never share a question, whatever their seeds and sizes.
    Columns: `group`, and those that `rewards.ReasoningGymReward` needs: `generator`, `settings` (JSON) and `entry` (a
    Python literal). The answer is empty if there is no single correct one.

    Args:
        datasets: name of a generator -> its settings, or a list of several; None uses its defaults.
        num_tasks: N.
        seed: the same seed and split give the same pool everywhere.
        split: "train", or "heldout" for the held-out eighth of all questions.
        groups: name of a generator -> `group` of its tasks; the name of the generator by default.
        by_category: makes the default group the generator's category, such as "algebra", "logic" or "games".
        prompt_template: the prompt, with `{question}` in place of the question.
        chat: makes prompts chats of one user message.
        system_prompt: system message of every prompt, which makes them chats.
        examples: questions with answers that every prompt shows first, which makes them chats.

    Raises:
        ValueError: an option is not allowed or out of range.
    """

    def __init__(
        self,
        datasets: dict[str, Settings | list[Settings] | None],
        num_tasks: int = 4000,
        seed: int = 0,
        split: Split = "train",
        groups: dict[str, str] | None = None,
        by_category: bool = False,
        prompt_template: str = "{question}",
        chat: bool = False,
        system_prompt: str | None = None,
        examples: list[Example] | None = None,
    ) -> None:
        if not datasets:
            raise ValueError("datasets is empty; expected at least one generator of reasoning-gym.")
        check_numbers(1, num_tasks=num_tasks)
        check_numbers(0, seed=seed)
        check_option("split", split, Split)
        if "{question}" not in prompt_template:
            raise ValueError(f"prompt_template={prompt_template!r}; expected a text with {{question}} in it.")
        if unknown := sorted(set(groups or {}) - set(datasets)):
            raise ValueError(f"groups names {unknown}, which are not among the datasets {list(datasets)}.")
        self.datasets = {name: _choices(settings) for name, settings in datasets.items()}
        self.num_tasks, self.seed, self.split = num_tasks, seed, split
        self.groups, self.by_category = dict(groups or {}), by_category
        self.prompt_template = prompt_template
        self.chat = chat or system_prompt is not None or bool(examples)
        self.system_prompt, self.examples = system_prompt, examples or []

    def load(self) -> TaskPool:
        """Draws the pool; most generators make thousands of tasks per second.

        Raises:
            ImportError: reasoning-gym is not installed.
            ValueError: the datasets hold fewer questions than `num_tasks`, or a generator cannot be used.
        """
        self._check_repeatable()
        streams = [
            _Stream(name, settings, self.seed) for name, choices in self.datasets.items() for settings in choices
        ]
        turns = deque((stream, stream.entries()) for stream in streams)
        seen: set[str] = set()
        rows: list[dict[str, Any]] = []
        while turns and len(rows) < self.num_tasks:
            stream, entries = turns.popleft()
            drawn = self._next_new(entries, seen)
            if drawn is not None:
                rows.append(self._row(stream, *drawn))
                turns.append((stream, entries))
        if len(rows) < self.num_tasks:
            raise ValueError(
                f"datasets={self.datasets} have only {len(rows)} distinct {self.split} questions; expected num_tasks="
                f"{self.num_tasks}. Lower num_tasks, add datasets or widen their settings."
            )
        if self.chat:
            chats = chats_of([row["prompt"] for row in rows], self.system_prompt, self.examples)
            rows = [row | {"prompt": chat} for row, chat in zip(rows, chats, strict=True)]
        return TaskPool.from_rows(rows, name=f"reasoning-gym-{self.split}")

    def _check_repeatable(self) -> None:
        """Refuses pools that would differ between loads, and therefore between ranks and after a resume."""
        if unseeded := sorted(UNSEEDED & set(self.datasets)):
            raise ValueError(f"{unseeded} would give other tasks at every load, whatever the seed. Remove them.")
        unsteady = sorted(HASH_ORDERED & set(self.datasets))
        if unsteady and os.environ.get("PYTHONHASHSEED", "random") == "random":
            raise ValueError(
                f"{unsteady} would give other tasks in every process. Set the environment variable PYTHONHASHSEED=0 "
                "before Python starts, or remove them."
            )

    def _next_new(
        self, entries: Iterator[tuple[str, dict[str, Any]]], seen: set[str]
    ) -> tuple[str, dict[str, Any]] | None:
        """The next entry of this split whose question is new; None if there is none within `MAX_DRAWS`."""
        for _ in range(MAX_DRAWS):
            category, entry = next(entries)
            question = entry["question"]
            if question not in seen and is_heldout(question) == (self.split == "heldout"):
                seen.add(question)
                return category, entry
        return None

    def _row(self, stream: _Stream, category: str, entry: dict[str, Any]) -> dict[str, str]:
        name = stream.generator
        try:
            text = entry_text(entry)
        except ValueError as error:
            raise ValueError(f"{name} cannot be used: {error}. Remove it.") from error
        answer = entry["answer"] or ""
        prompt = self.prompt_template.replace("{question}", entry["question"])
        return {
            "id": task_id(prompt, answer),
            "prompt": prompt,
            "answer": answer,
            "group": self.groups.get(name, category if self.by_category else name),
            "generator": name,
            "settings": json.dumps(stream.settings, sort_keys=True),
            "entry": text,
        }


def _choices(settings: Settings | list[Settings] | None) -> list[Settings]:
    return [dict(choice) for choice in (settings if isinstance(settings, list) else [settings or {}])]
