"""What a pool asks and expects, in hashes: enough to tell one whose answers were corrected from another pool."""

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
        prompts: 16 hex characters that stand for all prompts, in their order.
        answers: (N,) int32.
        references: (N,) int32, of each task's reference pass rates; empty if there are none.
    """

    prompts: str
    answers: npt.NDArray[np.int32]
    references: npt.NDArray[np.int32]

    @classmethod
    def of(cls, table: pa.Table, references: tuple[str, ...]) -> Contents:
        """Those of a pool's table."""
        rates = [np.where(np.isnan(column := numbers(table[name])), np.nan, column) for name in references]
        rows = np.stack(rates, axis=1).astype("<f8").tobytes() if rates else b""
        width = 8 * len(rates) or 1
        return cls(
            _digest(plain(table["prompt"])),
            _checksums((answer.encode() for answer in values(table["answer"])), table.num_rows),
            _checksums((rows[at : at + width] for at in range(0, len(rows), width)), len(rows) // width),
        )

    def changed_answers(self, before: Contents) -> npt.NDArray[np.int64]:
        """Positions of the tasks that had other answers before, in a pool of as many tasks."""
        return np.flatnonzero(self.answers != before.answers)

    def is_correction_of(self, before: Contents) -> bool:
        """Whether the prompts are the same, and the pass rates but for those of tasks with other answers.

        A pass rate that was measured by a wrong answer goes when the answer is corrected.
        """
        if self.prompts != before.prompts or len(self.references) != len(before.references):
            return False
        changed = np.flatnonzero(self.references != before.references)
        return bool(np.isin(changed, self.changed_answers(before)).all())


def _digest(prompts: pa.ChunkedArray) -> str:
    """Of strings or chats, however Arrow holds them; texts are hashed as they lie, many at a time."""
    digest = sha256()
    for start in range(0, len(prompts), SLICE):
        part = prompts.slice(start, SLICE).combine_chunks()
        if is_text(part.type):
            _feed_texts(digest, part)
            continue
        _feed_lengths(digest, pc.list_value_length(part))
        messages = part.flatten()
        for name in ("role", "content"):
            _feed_texts(digest, pc.struct_field(messages, name))
    return digest.hexdigest()[:16]


def _feed_texts(digest: Any, texts: pa.Array) -> None:
    """Adds how long each text is, in bytes, and then all texts."""
    _feed_lengths(digest, pc.binary_length(texts))
    held = texts.cast(pa.large_binary())
    _, ends, data = held.buffers()
    if data is not None:
        first, last = np.frombuffer(ends, np.int64)[[held.offset, held.offset + len(held)]].tolist()
        digest.update(memoryview(data)[first:last])


def _feed_lengths(digest: Any, lengths: pa.Array) -> None:
    digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i8").tobytes())


def _checksums(parts: Iterable[bytes], count: int) -> npt.NDArray[np.int32]:
    return np.fromiter(map(crc32, parts), np.uint32, count).view(np.int32)
