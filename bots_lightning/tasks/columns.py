"""The columns of a pool as arrays of numbers or labels, converted when they are read."""

# Shapes: N tasks in the pool, F numbers of an embedding.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bots_lightning.tasks.arrays import MISFITS, numbers
from bots_lightning.tasks.checks import check_no_nul
from bots_lightning.tasks.prompts import characters, is_text

# Computed from the prompt: natural logarithm of its number of characters, over all messages.
PROMPT_LENGTH = "log_prompt_length"


class PoolColumns(Mapping[str, npt.NDArray[Any]]):
    """Maps names to columns: numbers (N,) with NaN for null, labels (N,) with "" for null, or embeddings (N, F).

    It has the table's columns except id, prompt and answer, and `log_prompt_length`. Reading a column that holds
    neither numbers, strings nor lists of numbers raises a ValueError.

    Args:
        table: of a pool.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self.table.column_names if name not in ("id", "prompt", "answer"))
        if PROMPT_LENGTH not in self.table.column_names:
            yield PROMPT_LENGTH

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in set(self):
            raise KeyError(name)
        if name == PROMPT_LENGTH and name not in self.table.column_names:
            return _logs(characters(self.table["prompt"]))
        column = self.table[name]
        if is_text(column.type):
            check_no_nul(name, column, lambda row: f"task {self.table['id'][row].as_py()!r}")
            return np.array([label or "" for label in column.to_pylist()], dtype=np.str_)
        length = _length_of_lists(name, column) if _is_list(column.type) else None
        try:
            return numbers(column) if length is None else numbers(pc.list_flatten(column)).reshape(-1, length)
        except MISFITS as error:
            raise ValueError(
                f"column {name!r} has the type {column.type}; expected numbers, strings, or lists of numbers."
            ) from error


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def log_lengths(prompts: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Natural logarithm of each prompt's number of characters, (N,), NaN where there is no prompt.

    Args:
        prompts: N strings, lists of chat messages, or nulls.
    """
    return _logs(np.array([_length(prompt) if prompt else 0 for prompt in prompts]))


def _logs(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.log(np.where(lengths > 0, lengths, np.nan))


def _length(prompt: str | list[dict[str, str]]) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(message["content"] or "") for message in prompt)


def _length_of_lists(name: str, column: pa.ChunkedArray) -> int:
    """The length F of all lists."""
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(
            f"column {name!r} holds lists of the lengths {sorted(map(str, lengths))}; expected one length F for all "
            "tasks, and no null or empty list."
        )
    return int(lengths[0])
