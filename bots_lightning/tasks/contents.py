"""What a pool asks and expects, in hashes: enough to tell one whose answers were corrected from another pool."""

# Shapes: N tasks in the pool.

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bots_lightning.tasks.arrays import numbers, values


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
        digest = sha256()
        for prompt in values(table["prompt"]):
            asked = prompt if isinstance(prompt, str) else [[m["role"], m["content"]] for m in prompt]
            digest.update(json.dumps(asked).encode() + b"\n")
        answers = (crc32(answer.encode()) for answer in values(table["answer"]))
        rates = [np.where(np.isnan(column := numbers(table[name])), np.nan, column) for name in references]
        rows = np.stack(rates, axis=1).astype("<f8") if rates else ()
        return cls(
            digest.hexdigest()[:16],
            np.fromiter(answers, np.uint32, table.num_rows).view(np.int32),
            np.fromiter((crc32(row.tobytes()) for row in rows), np.uint32, len(rows)).view(np.int32),
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
