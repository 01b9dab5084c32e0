"""Hashes of a pool's prompts, answers and pass rates, to distinguish corrected answers from another pool."""

# Shapes: N tasks in the pool.

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bots_lightning.tasks.arrays import SLICE, numbers, values
from bots_lightning.tasks.prompts import is_text, plain


@dataclass(frozen=True)
class Contents:
    """Hashes of a pool; 4 bytes for each answer, and 4 for its pass rates.

    Attributes:
        prompts: hash of all prompts in their order, 16 hex characters.
        answers: (N,) int32, checksum of each answer.
        references: (N,) int32, checksum of each task's reference pass rates; empty if there are none.
    """

    prompts: str
    answers: npt.NDArray[np.int32]
    references: npt.NDArray[np.int32]

    @classmethod
    def of(cls, table: pa.Table, references: tuple[str, ...]) -> Contents:
        """Computes the hashes of a pool.

        Args:
            table: of the pool.
            references: its reference columns.
        """
        rates = [np.where(np.isnan(column := numbers(table[name])), np.nan, column) for name in references]
        rows = np.stack(rates, axis=1).astype("<f8").tobytes() if rates else b""
        width = 8 * len(rates) or 1
        return cls(
            _digest(plain(table["prompt"])),
            _checksums((answer.encode() for answer in values(table["answer"])), table.num_rows),
            _checksums((rows[at : at + width] for at in range(0, len(rows), width)), len(rows) // width),
        )

    def changed_answers(self, before: Contents) -> npt.NDArray[np.int64]:
        """Positions of the tasks whose answers have changed; `before` must have as many tasks."""
        return np.flatnonzero(self.answers != before.answers)

    def is_correction_of(self, before: Contents) -> bool:
        """Whether only answers have changed, and pass rates of tasks whose answer has.

        A pass rate that was measured with a wrong answer becomes invalid when the answer is corrected.
        """
        if self.prompts != before.prompts or len(self.references) != len(before.references):
            return False
        changed = np.flatnonzero(self.references != before.references)
        return bool(np.isin(changed, self.changed_answers(before)).all())


def _digest(prompts: pa.ChunkedArray) -> str:
    """Hash of strings or chats; strings are hashed in Arrow's buffers, many at a time."""
    digest = sha256()
    for start in range(0, len(prompts), SLICE):
        batch = prompts.slice(start, SLICE).combine_chunks()
        if is_text(batch.type):
            _feed_texts(digest, batch)
            continue
        _feed_lengths(digest, pc.list_value_length(batch))
        messages = batch.flatten()
        for name in ("role", "content"):
            _feed_texts(digest, pc.struct_field(messages, name))
    return digest.hexdigest()[:16]


def _feed_texts(digest: Any, texts: pa.Array) -> None:
    """Adds the lengths of all texts in bytes, then the texts."""
    _feed_lengths(digest, pc.binary_length(texts))
    held = texts.cast(pa.large_binary())
    _, ends, data = held.buffers()
    if data is not None:
        first, last = np.frombuffer(ends, np.int64)[[held.offset, held.offset + len(held)]].tolist()
        digest.update(memoryview(data)[first:last])


def _feed_lengths(digest: Any, lengths: pa.Array) -> None:
    digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i8").tobytes())


def _checksums(items: Iterable[bytes], count: int) -> npt.NDArray[np.int32]:
    return np.fromiter(map(crc32, items), np.uint32, count).view(np.int32)
