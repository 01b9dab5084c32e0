"""Tasks of reasoning-gym: a hundred generators with settings for their difficulty, each with a verifier of its own."""

# Shapes: N tasks.

from __future__ import annotations

import ast
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fractions import Fraction
from itertools import count
from typing import Any, Literal

import numpy as np

from bots_lightning.tasks.pool import TaskPool, task_id
from bots_lightning.tasks.procedural.source import MAX_DRAWS, is_heldout
from bots_lightning.tasks.source import TaskSource

Settings = dict[str, Any]

# A generator's dataset is drawn in parts of so many entries: what a part holds depends on its size.
PART = 256
# These walk through sets of strings, in an order that Python draws anew in every process unless PYTHONHASHSEED is set.
HASH_ORDERED = frozenset(
    {
        "intermediate_integration",
        "isomorphic_strings",
        "knight_swap",
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    }
)
# These draw from generators that no seed reaches.
UNSEEDED = frozenset({"codeio", "list_functions"})
# The source sets these itself.
OWN_SETTINGS = {"seed", "size"}


def new_dataset(generator: str, settings: Mapping[str, Any], seed: int = 0) -> Any:
    """A dataset of reasoning-gym, of one part.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: there is no such generator or setting, or its value is refused.
    """
    datasets = _library()
    if generator not in datasets:
        near = get_close_matches(generator, datasets, n=5, cutoff=0.5)
        raise ValueError(
            f"reasoning-gym has no generator {generator!r}; near are {near}. `reasoning_gym.factory.DATASETS` has all."
        )
    kind, config = datasets[generator]
    known = [field.name for field in fields(config) if field.name not in OWN_SETTINGS]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"{generator} has no settings {unknown} that can be chosen; it has {known}.")
    try:
        return kind(config(**settings, seed=seed, size=PART))
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"{generator} refuses the settings {dict(settings)}: {error or 'out of range'}.") from error


def entry_text(entry: Mapping[str, Any]) -> str:
    """An entry of a dataset as a Python literal, from which `ast.literal_eval` makes an equal one.

    Not JSON, which turns tuples into lists and the keys of dictionaries into strings: the verifiers of `arc_agi` and
    `rearc` then reject their own answers.

    Raises:
        ValueError: it holds something that has no such text.
    """
    plain = _plain(entry)
    text = repr(plain)
    try:
        whole = ast.literal_eval(text) == plain
    except (ValueError, SyntaxError):
        whole = False
    if not whole:
        raise ValueError("its entries cannot be written as text and read again, which its verifier needs")
    return text


@dataclass(frozen=True)
class _Stream:
    """One generator with one choice of settings, and where its questions come from."""

    generator: str
    settings: Settings
    seed: int

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Without end: (category, entry)."""
        for part in count():
            sequence = np.random.SeedSequence([self.seed, part])  # datasets of near seeds share most of their entries
            dataset = new_dataset(self.generator, self.settings, int(sequence.generate_state(1)[0]))
            for i in range(PART):
                yield dataset.category, self._entry(dataset, i)

    def _entry(self, dataset: Any, i: int) -> dict[str, Any]:
        try:
            return dataset[i]
        except Exception as error:
            raise ValueError(
                f"{self.generator} could not make a task with the settings {self.settings}: {error}. Widen them."
            ) from error


class ReasoningGymTasks(TaskSource):
    """Tasks of reasoning-gym (Stojanovski et al., arXiv:2505.24760), drawn from a seed.

    The chosen datasets take turns; one that has no further question leaves its turns to the others. A smaller pool is
    the beginning of a larger one of the same seed. Train and held-out pools never share a question, whatever their
    seeds and sizes. Columns: `group`, and what `rewards.ReasoningGymReward` needs: `generator`, `settings` (JSON) and
    `entry` (a Python literal). The answer is empty where the verifier knows no single right one.

    Args:
        datasets: settings by the name of the generator, or a list of several choices of them; none for its defaults.
        num_tasks: N.
        seed: the same seed and split give the same pool everywhere.
        split: "train", or "heldout" for the eighth of all questions that is kept from it.
        groups: `group` by generator. Those that are not named have the generator's name, or:
        by_category: its category in reasoning-gym, e.g. "algebra", "logic" or "games".
        prompt_template: the prompt, with `{question}` where the question goes.

    Raises:
        ValueError: an option is out of range; on loading, the datasets hold fewer questions than `num_tasks`, or a
            generator cannot be used.
    """

    def __init__(
        self,
        datasets: dict[str, Settings | list[Settings] | None],
        num_tasks: int = 4000,
        seed: int = 0,
        split: Literal["train", "heldout"] = "train",
        groups: dict[str, str] | None = None,
        by_category: bool = False,
        prompt_template: str = "{question}",
    ) -> None:
        if not datasets:
            raise ValueError("datasets is empty; expected at least one generator of reasoning-gym.")
        if num_tasks < 1:
            raise ValueError(f"num_tasks={num_tasks}; expected at least 1.")
        if seed < 0:
            raise ValueError(f"seed={seed}; expected 0 or more.")
        if split not in ("train", "heldout"):
            raise ValueError(f"split={split!r}; expected 'train' or 'heldout'.")
        if "{question}" not in prompt_template:
            raise ValueError(f"prompt_template={prompt_template!r}; expected {{question}} somewhere in it.")
        if unknown := sorted(set(groups or {}) - set(datasets)):
            raise ValueError(f"groups names {unknown}, which are not among the datasets {list(datasets)}.")
        self.datasets = {name: _choices(settings) for name, settings in datasets.items()}
        self.num_tasks, self.seed, self.split = num_tasks, seed, split
        self.groups, self.by_category = dict(groups or {}), by_category
        self.prompt_template = prompt_template

    def load(self) -> TaskPool:
        """Draws the pool; most generators make thousands of tasks a second."""
        self._check_repeatable()
        streams = [
            _Stream(name, settings, self.seed) for name, choices in self.datasets.items() for settings in choices
        ]
        turns = deque((stream, stream.entries()) for stream in streams)
        seen: set[str] = set()
        rows: list[dict[str, str]] = []
        while turns and len(rows) < self.num_tasks:
            stream, entries = turns.popleft()
            drawn = self._next_new(entries, seen)
            if drawn is not None:
                rows.append(self._row(stream, *drawn))
                turns.append((stream, entries))
        if len(rows) < self.num_tasks:
            raise ValueError(
                f"datasets={self.datasets} gave {len(rows)} distinct {self.split} questions; num_tasks="
                f"{self.num_tasks} were asked for. Lower num_tasks, add datasets or widen their settings."
            )
        return TaskPool.from_rows(rows, name=f"reasoning-gym-{self.split}")

    def _check_repeatable(self) -> None:
        """Refuses pools that would differ from load to load, and so from rank to rank and after a resume."""
        if unseeded := sorted(UNSEEDED & set(self.datasets)):
            raise ValueError(f"{unseeded} would give other tasks on every load, whatever the seed. Leave them out.")
        unsteady = sorted(HASH_ORDERED & set(self.datasets))
        if unsteady and os.environ.get("PYTHONHASHSEED", "random") == "random":
            raise ValueError(
                f"{unsteady} would give other tasks in every process. Set the environment variable PYTHONHASHSEED=0 "
                "before Python starts, or leave them out."
            )

    def _next_new(
        self, entries: Iterator[tuple[str, dict[str, Any]]], seen: set[str]
    ) -> tuple[str, dict[str, Any]] | None:
        """The next entry of this split whose question is new; None if none turns up."""
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
            raise ValueError(f"{name} cannot be used: {error}. Leave it out.") from error
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


def _plain(value: Any) -> Any:
    """Python's own data; numbers and strings of numpy become Python's, and fractions text, which no verifier reads."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_plain(item) for item in value)
    return value


def _library() -> dict[str, tuple[Any, Any]]:
    """(dataset class, configuration class) by the generator's name."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ImportError("reasoning-gym is not installed. Run: pip install 'bots-lightning[reasoning-gym]'") from error
    return DATASETS
