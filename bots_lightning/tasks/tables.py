"""From the rows of a file or a dataset to a pool of tasks."""

# Shapes: N tasks.

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from reprlib import repr as short

import pyarrow as pa

from bots_lightning.options import check_numbers
from bots_lightning.tasks import prompts as shapes
from bots_lightning.tasks.arrays import Column, arrow, values
from bots_lightning.tasks.checks import answer_texts, check_filled, check_unique, texts
from bots_lightning.tasks.formats import Format, behind_mark, find, recognise
from bots_lightning.tasks.places import chosen_places
from bots_lightning.tasks.pool import TaskPool
from bots_lightning.tasks.prompt_checks import check_prompts
from bots_lightning.tasks.rows import Rows, arrow_columns, checked_rates, column_of, first_of_each
from bots_lightning.tasks.source import TaskSource
from bots_lightning.tasks.task import task_id
from bots_lightning.tasks.texts import chats_of_texts, check_encoding, group_labels, objects_of_texts

log = logging.getLogger(__name__)


class TableTasks(TaskSource):
    """Tasks that are rows of a table. Subclasses implement `_read`.

    Every row becomes a task; a row that cannot is an error. The format is recognised by its columns (see
    `bots_lightning.tasks.formats`): TRL, verl and GURU, Big-Math, Polaris, MATH, GSM8K. The options below override
    what was recognised; dotted names refer to fields of structs: `reward_model.ground_truth`.

    Columns keep their names, for reward functions. A column that is used as `id`, `prompt`, `answer` or `group` under
    another name is copied; an existing column of that name becomes `original_…`. Answers that are lists or objects
    become JSON text. Chats and objects may be given as JSON text, as in CSV.

    Args:
        path: the file or files.
        prompt_column: column of prompts: strings, or lists of {role, content} messages.
        answer_column: column of answers: strings, numbers, lists or objects.
        id_column: column of ids; without one, a task's id is the hash of its prompt and answer.
        group_column: column of groups, such as domain or data source.
        references: columns with the pass rates of reference models, in [0, 1], null or NaN where unknown; None uses
            those of the format, an empty list none.
        columns: further columns to keep; None keeps all. Columns kept from several sources must have the same types.
        limit: reads only this many rows.
        drop_duplicates: keeps the first row of each id and logs the number of others; otherwise they are an error.
        chat: converts prompts that are strings to chats of one user message.
        system_prompt: system message of every prompt, which replaces an existing one; converts strings to chats.
        prompt_template: text around prompts that are strings, with {prompt} in it once.
        examples: questions with answers that every prompt shows first; converts strings to chats.

    Raises:
        ValueError: an option is out of range.
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
        examples: list[shapes.Example] | None = None,
    ) -> None:
        check_numbers(1, limit=limit)
        if prompt_template is not None and prompt_template.count(shapes.PLACEHOLDER) != 1:
            raise ValueError(f"prompt_template={prompt_template!r}; expected a text with {{prompt}} in it, once.")
        self.path = path
        self.named = {"prompt": prompt_column, "answer": answer_column, "id": id_column, "group": group_column}
        self.references = references
        self.columns = columns
        self.limit = limit
        self.drop_duplicates = drop_duplicates
        self.chat = chat or system_prompt is not None or bool(examples)
        self.system_prompt = system_prompt
        self.prompt_template = prompt_template
        self.examples = examples or []

    @abstractmethod
    def _read(self) -> Rows:
        """Reads the rows, up to `limit`."""

    def load(self) -> TaskPool:
        """Reads and checks the rows.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the rows are not valid tasks; names file, row and remedy.
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
            kind = replace(kind, answer_mark="")  # answers of a column named by the user are used unchanged
        read = self._with_objects(kind, rows)
        roles = self._roles(kind, read.columns)
        references = self._references(kind, read.columns)
        own = self._own_columns(kind, roles, read) | checked_rates(kind, references, read)
        unchanged = {name for role, name in roles.items() if role == name} | set(references)
        table = pa.table(arrow_columns(own, rows, self._others(rows, unchanged - kind.rewritten)))
        place = rows.place
        if self.drop_duplicates:
            first = first_of_each(table, str(self.path))
            table, place = table.take(pa.array(first)), chosen_places(place, first)
        log.info(
            "%s: %d tasks in the format of %s; %s; references %s",
            *(self.path, table.num_rows, kind.name),
            *(", ".join(f"{role} from {name!r}" for role, name in roles.items()), references or "none"),
        )
        return TaskPool(table, references, rows.name, place)

    def _others(self, rows: Rows, used: set[str]) -> list[str]:
        """Names of the columns to keep besides those that are used."""
        for name in self.columns or ():
            self._require(rows.columns, name, "columns")
        kept = [name for name in rows.columns if self.columns is None or name in self.columns]
        return [name for name in kept if name not in used]

    def _with_objects(self, kind: Format, rows: Rows) -> Rows:
        """Parses JSON text in columns to whose fields a dotted name refers."""
        names = {*kind.prompt, *kind.answer, *kind.id, *kind.group, *self.named.values(), *(self.references or ())}
        heads = {name.partition(".")[0] for name in names if name and "." in name and name not in rows.columns}
        found = {name: objects_of_texts(name, rows.columns[name], rows.place) for name in heads & set(rows.columns)}
        return replace(rows, columns=rows.columns | found)

    def _roles(self, kind: Format, columns: dict[str, Column]) -> dict[str, str]:
        """Names of the columns of prompts and answers and, if there are any, of ids and groups."""
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
            f"{self.path} has no column {name!r}; it has {list(columns)}{inside}. Set `{option}` to a column of the "
            "file."
        )

    def _own_columns(self, kind: Format, roles: dict[str, str], rows: Rows) -> dict[str, Column]:
        """The pool's columns id, prompt, answer and group, each (N,), checked."""
        raw = {role: column_of(rows, name) for role, name in roles.items()}
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
        """Applies `prompt_template`, `chat`, `examples` and `system_prompt` to the prompts."""
        text = shapes.is_text(prompts.type)
        if self.prompt_template is not None:
            if not text:
                raise ValueError(
                    f"{self.path}: prompt_template needs prompts that are strings; these are chat messages. "
                    "Remove it, or use system_prompt."
                )
            prompts = shapes.fill_template(prompts, self.prompt_template)
        if text and self.chat:
            prompts = shapes.as_chats(prompts)
        return shapes.opened(prompts, self.system_prompt, self.examples)
