"""The formats of public datasets, as data: by which columns they are recognised, and what each column holds."""

# Shapes: N tasks.

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short

import pyarrow as pa
import pyarrow.compute as pc

from bots_lightning.tasks.arrays import Column, values
from bots_lightning.tasks.places import Place

IDS = ("id", "task_id")
GROUPS = ("group", "data_source", "ability")
COUNTS = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")


@dataclass(frozen=True)
class Format:
    """The columns of a dataset. Of several candidates, the first that is present is used.

    Attributes:
        name: for messages.
        needs: columns that must all be present for the format to be recognised.
        prompt: candidates for the column of prompts; dotted names refer to fields of structs.
        answer: candidates for the column of answers.
        id: candidates for the column of ids; without one, a task's id is the hash of its prompt and answer.
        group: candidates for the column of groups.
        references: columns of reference pass rates, the weaker model's first; all that are present are used.
        counts: those of `references` that hold text, passed/attempts: "3/8"; required for recognition.
        answer_mark: the answer follows the last such mark, after a worked solution; "" if there is none.
    """

    name: str
    needs: tuple[str, ...]
    prompt: tuple[str, ...]
    answer: tuple[str, ...]
    id: tuple[str, ...] = IDS
    group: tuple[str, ...] = GROUPS
    references: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    answer_mark: str = ""

    @property
    def rewritten(self) -> set[str]:
        """Columns whose values the pool converts, so that the original is kept too."""
        return {*self.counts, *(self.answer if self.answer_mark else ())}


TRL = Format("TRL", ("prompt",), ("prompt",), ("answer", "solution"), references=("reference_pass_rate",))

# The first that fits is used. GURU, DAPO and One-Shot-RLVR have that of verl.
FORMATS = (
    Format(
        "verl",
        needs=("prompt", "reward_model"),
        prompt=("prompt",),
        answer=("reward_model.ground_truth",),
        references=("qwen2.5_7b_pass_rate", "qwen3_30b_pass_rate"),
    ),
    TRL,
    Format(
        "Big-Math",
        needs=("problem", "answer", "llama8b_solve_rate"),
        prompt=("problem",),
        answer=("answer",),
        group=("group", "source"),  # `domain` is a list of several
        references=("llama8b_solve_rate",),
    ),
    Format(
        "Polaris",
        needs=("problem", "answer", "difficulty"),
        prompt=("problem",),
        answer=("answer",),
        references=("difficulty",),
        counts=("difficulty",),
    ),
    Format(
        "MATH",
        needs=("problem",),
        prompt=("problem",),
        answer=("answer", "solution"),
        id=(*IDS, "unique_id"),
        group=("group", "subject", "type"),
    ),
    Format("GSM8K", needs=("question",), prompt=("question",), answer=("answer",), answer_mark="####"),
)


def recognise(columns: Mapping[str, Column]) -> Format:
    """The format of these columns; TRL's if none fits, so that errors about missing columns use its names."""
    fitting = (kind for kind in FORMATS if all(name in columns for name in kind.needs))
    return next((kind for kind in fitting if all(_holds_counts(columns[name]) for name in kind.counts)), TRL)


def find(columns: Mapping[str, Column], name: str) -> Column | None:
    """Finds a column by name, or a field of a struct by a dotted name.

    Args:
        columns: all columns, by name.
        name: of the column; a column whose name has a dot takes precedence over a field.

    Returns:
        The column; None if there is none.
    """
    if name in columns:
        return columns[name]
    head, dot, rest = name.partition(".")
    if not dot or head not in columns:
        return None
    column = columns[head]
    if isinstance(column, pa.ChunkedArray):
        kind = column.type
        fields = {kind[i].name: i for i in range(kind.num_fields)} if pa.types.is_struct(kind) else {}
        return find({key: pc.struct_field(column, [fields[key]]) for key in fields}, rest)
    rows = [row if isinstance(row, dict) else {} for row in column]
    return find({key: [row.get(key) for row in rows] for key in dict.fromkeys(k for row in rows for k in row)}, rest)


def rates_of_counts(name: str, counts: Column, place: Place) -> list[float | None]:
    """Converts text such as "3/8" to pass rates.

    Args:
        name: of the column, for the error message.
        counts: N strings, or null.
        place: describes where a row comes from.

    Returns:
        N pass rates, None where null or empty.

    Raises:
        ValueError: names the first row that holds something else.
    """
    return [_rate(name, count, place, row) for row, count in enumerate(values(counts))]


def behind_mark(answers: Column, mark: str, place: Place) -> list[str]:
    """The text after the last mark of each answer; the whole answer if it has no mark.

    Args:
        answers: N strings.
        mark: such as "####".
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row with nothing after its mark.
    """
    return [_behind_mark(answer, mark, place, row) for row, answer in enumerate(values(answers))]


def _behind_mark(answer: str, mark: str, place: Place, row: int) -> str:
    if mark not in answer:
        return answer
    if final := answer.rpartition(mark)[2].strip():
        return final
    raise ValueError(
        f"{place(row)}: nothing follows the last {mark!r} of the answer {short(answer)}; expected the final answer "
        "there. Fill it in or remove the task."
    )


def _holds_counts(column: Column) -> bool:
    """Whether the first value that is not null is text such as "3/8"."""
    first = next((value for value in values(column) if value is not None), None)
    return isinstance(first, str) and COUNTS.fullmatch(first) is not None


def _rate(name: str, count: str | float | None, place: Place, row: int) -> float | None:
    if count is None or count == "" or count != count:  # NaN is not itself
        return None
    match = COUNTS.fullmatch(count) if isinstance(count, str) else None
    passed, attempts = map(int, match.groups()) if match else (0, 0)
    if attempts == 0 or passed > attempts:
        raise ValueError(
            f"{place(row)}: {name}={count!r}; expected passed/attempts such as '3/8', null if unknown. "
            "Correct it, or set the source's `references`."
        )
    return passed / attempts
