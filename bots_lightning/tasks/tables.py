"""From the rows of a file or a data set to a pool of tasks."""

# Shapes: N tasks.

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as short

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bots_lightning.tasks import prompts as shapes
from bots_lightning.tasks.arrays import Column, Place, arrow, values
from bots_lightning.tasks.checks import (
    answer_texts,
    check_filled,
    check_prompts,
    check_rates,
    check_unique,
    texts,
)
from bots_lightning.tasks.formats import Format, behind_mark, find, rates_of_counts, recognise
from bots_lightning.tasks.pool import TaskPool, chosen_places, task_id
from bots_lightning.tasks.source import TaskSource
from bots_lightning.tasks.texts import chats_of_texts, check_encoding, group_labels, objects_of_texts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """What a reader has read.

    Attributes:
        columns: N values each, by name.
        num_rows: N.
        place: names a row as a person would find it.
        name: of the pool.
        row_word: what a task is called there: "row", "line".
    """

    columns: dict[str, Column]
    num_rows: int
    place: Place
    name: str
    row_word: str = "row"


class TableTasks(TaskSource):
    """Tasks that are rows of a table. A reader implements `_read`.

    Every row becomes a task; a row that cannot is an error. The format is recognised by its columns (see
    `bots_lightning.tasks.formats`): TRL, verl and GURU, Big-Math, Polaris, MATH, GSM8K. Each option below overrides
    what was recognised; a dotted name reaches into structs: `reward_model.ground_truth`.

    Columns stay under their own names, for reward functions. What serves as `id`, `prompt`, `answer` or `group`
    under another name is copied, and a column whose name it takes becomes `original_…`. Answers that are lists or
    objects become JSON text. Chats that are JSON text, as in CSV, become chats, and a dotted name also reaches into
    objects that are JSON text.

    Args:
        path: the file or files.
        prompt_column: strings, or lists of {role, content} messages.
        answer_column: strings, numbers, lists or objects.
        id_column: without one, a task's id is the hash of the row's prompt and answer.
        group_column: domain or data source.
        references: columns with the pass rates of reference models, in [0, 1], null or NaN where unknown; none takes
            those of the format, an empty list no column.
        columns: further columns that stay; none keeps all. Files that are mixed must agree on the types of theirs.
        limit: only the first so many rows.
        drop_duplicates: keeps the first of the rows with one id and says how many it leaves out; else that is an error.
        chat: makes prompts that are strings chats of one user message.
        system_prompt: opens every prompt, in the place of a system message that is there; makes strings chats.
        prompt_template: text around prompts that are strings, with {prompt} in it once.
    """

    def __init__(
        self,
        path: str | Path,
        prompt_column: str | None = None,
        answer_column: str | None = None,
        id_column: str | None = None,
        group_column: str | None = None,
        references: list[str] | None = None,
        columns: list[str] | None = None,
        limit: int | None = None,
        drop_duplicates: bool = False,
        chat: bool = False,
        system_prompt: str | None = None,
        prompt_template: str | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit}; expected at least 1, or none for all rows.")
        if prompt_template is not None and prompt_template.count(shapes.PLACEHOLDER) != 1:
            raise ValueError(f"prompt_template={prompt_template!r}; expected a text with {{prompt}} in it, once.")
        self.path = path
        self.named = {"prompt": prompt_column, "answer": answer_column, "id": id_column, "group": group_column}
        self.references = references
        self.columns = columns
        self.limit = limit
        self.drop_duplicates = drop_duplicates
        self.chat = chat or system_prompt is not None
        self.system_prompt = system_prompt
        self.prompt_template = prompt_template

    @abstractmethod
    def _read(self) -> Rows:
        """The rows, up to `limit`."""

    def load(self) -> TaskPool:
        """Reads and checks the rows.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: naming file, row and remedy.
        """
        rows = self._read()
        if not rows.num_rows:
            raise ValueError(
                f"{self.path} holds no tasks; expected one per {rows.row_word}. "
                "Add tasks, or correct the source's `path`."
            )
        check_encoding(rows.columns, rows.place)
        kind = recognise(rows.columns)
        if self.named["answer"] is not None:
            kind = replace(kind, answer_mark="")  # an answer that the configuration names is meant as it stands
        read = self._with_objects(kind, rows)
        roles = self._roles(kind, read.columns)
        references = self._references(kind, read.columns)
        own = self._own_columns(kind, roles, read) | _rates(kind, references, read)
        unchanged = {name for role, name in roles.items() if role == name} | set(references)
        for name in self.columns or ():
            self._require(rows.columns, name, "columns")
        others = [name for name in rows.columns if self.columns is None or name in self.columns]
        table = pa.table(_arrow_columns(own, rows, [name for name in others if name not in unchanged - kind.rewritten]))
        place = rows.place
        if self.drop_duplicates:
            first = _first_of_each(table, str(self.path))
            table, place = table.take(pa.array(first)), chosen_places(place, first)
        log.info(
            "%s: %d tasks in the format of %s; %s; references %s",
            *(self.path, table.num_rows, kind.name),
            *(", ".join(f"{role} from {name!r}" for role, name in roles.items()), references or "none"),
        )
        return TaskPool(table, references, rows.name, place)

    def _with_objects(self, kind: Format, rows: Rows) -> Rows:
        """The rows with objects for JSON text, in columns that a dotted name reaches into."""
        names = {*kind.prompt, *kind.answer, *kind.id, *kind.group, *self.named.values(), *(self.references or ())}
        heads = {name.partition(".")[0] for name in names if name and "." in name and name not in rows.columns}
        found = {name: objects_of_texts(name, rows.columns[name], rows.place) for name in heads & set(rows.columns)}
        return replace(rows, columns=rows.columns | found)

    def _roles(self, kind: Format, columns: dict[str, Column]) -> dict[str, str]:
        """Which column is the prompt, the answer and, if there are such, the id and the group."""
        usual = {"prompt": kind.prompt, "answer": kind.answer, "id": kind.id, "group": kind.group}
        roles = {}
        for role, candidates in usual.items():
            found = next((name for name in candidates if find(columns, name) is not None), None)
            name = self.named[role] or found or (candidates[0] if role in ("prompt", "answer") else None)
            if name is not None:
                self._require(columns, name, f"{role}_column")
                roles[role] = name
        return roles

    def _references(self, kind: Format, columns: dict[str, Column]) -> list[str]:
        if self.references is None:
            return [name for name in kind.references if name in columns]
        for name in self.references:
            self._require(columns, name, "references")
        return self.references

    def _require(self, columns: dict[str, Column], name: str, option: str) -> None:
        if find(columns, name) is not None:
            return
        head = name.partition(".")[0]
        inside = f" (the first {head!r} is {short(next(values(columns[head]), None))})" if head in columns else ""
        raise ValueError(
            f"{self.path} has no column {name!r}; it has {list(columns)}{inside}. Set `{option}` to what the file has."
        )

    def _own_columns(self, kind: Format, roles: dict[str, str], rows: Rows) -> dict[str, Column]:
        """The columns of a pool by their names there, each (N,); checked."""
        raw = {role: _column(rows, name) for role, name in roles.items()}
        raw["prompt"] = chats_of_texts(raw["prompt"], rows.place)
        check_prompts(raw["prompt"], rows.place)
        answers = answer_texts(raw["answer"], rows.place)
        if kind.answer_mark:
            answers = behind_mark(answers, kind.answer_mark, rows.place)
        check_filled(answers, rows.columns, rows.place)
        if "id" in raw:
            ids = texts("id", raw["id"], rows.place)
        else:
            ids = [task_id(*task) for task in zip(values(raw["prompt"]), values(answers), strict=True)]
        if not self.drop_duplicates:
            check_unique(ids, rows.place)
        prompts = arrow("prompt", raw["prompt"], rows.place)
        own: dict[str, Column] = {"id": ids, "prompt": self._shaped(shapes.plain(prompts)), "answer": answers}
        return own | ({"group": group_labels(raw["group"], rows.place)} if "group" in raw else {})

    def _shaped(self, prompts: pa.ChunkedArray) -> pa.ChunkedArray:
        """The prompts as `prompt_template`, `chat` and `system_prompt` want them."""
        text = shapes.is_text(prompts.type)
        if self.prompt_template is not None:
            if not text:
                raise ValueError(
                    f"{self.path}: prompt_template is for prompts that are strings; these are chat messages. "
                    "Take it out, or use system_prompt."
                )
            prompts = shapes.fill_template(prompts, self.prompt_template)
        if text and self.chat:
            prompts = shapes.as_chats(prompts)
        return prompts if self.system_prompt is None else shapes.with_system_prompt(prompts, self.system_prompt)


def _column(rows: Rows, name: str) -> Column:
    column = find(rows.columns, name)
    assert column is not None
    return column


def _first_of_each(table: pa.Table, path: str) -> npt.NDArray[np.int64]:
    """The rows of a pool but for those whose id has come before."""
    codes = table["id"].combine_chunks().dictionary_encode().indices  # numpy's own texts drop NULs at their end
    first = np.unique(codes.to_numpy(), return_index=True)[1]
    if len(first) < table.num_rows:
        log.info("%s: %d rows left out whose id had come before", path, table.num_rows - len(first))
    return np.sort(first)


def _rates(kind: Format, references: list[str], rows: Rows) -> dict[str, Column]:
    """The reference columns, each (N,), checked."""
    rates = {}
    for name in references:
        rates[name] = _column(rows, name)
        if name in kind.counts:
            rates[name] = rates_of_counts(name, rates[name], rows.place)
        check_rates(name, rates[name], rows.place)
    return rates


def _arrow_columns(own: dict[str, Column], rows: Rows, others: list[str]) -> dict[str, pa.ChunkedArray]:
    """The pool's own columns, and those others of the rows."""
    columns = dict(own)
    for name in others:
        kept = f"original_{name}" if name in own else name
        if kept in columns or (kept != name and kept in rows.columns):
            raise ValueError(
                f"{rows.place(0)}: column {name!r} is to be kept as {kept!r}, which there is already. Rename that one."
            )
        columns[kept] = rows.columns[name]
    return {name: arrow(name, column, rows.place) for name, column in columns.items()}
