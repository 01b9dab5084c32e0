"""Which prompts may have no tokens or too many: most can be told from their bytes, the rest in batches."""

# Shapes: N prompts of a pool, n of a batch.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import TemplateError

from bots_lightning.tasks.prompts import as_prompt, is_text

BATCH = 1024  # prompts that are encoded at a time

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class LengthCheck:
    """Sorts out the prompts whose tokens need not be counted one by one.

    Every token stands for a byte of text at least, except those that the tokenizer adds. That holds if it does not make
    texts longer before it splits them. All of Unicode's normal forms leave ASCII as it is; what else a tokenizer may do
    to it is tried with every character.

    Args:
        tokenizer: of transformers.
        most: tokens that a prompt may have.
    """

    def __init__(self, tokenizer: Any, most: float) -> None:
        self.tokenizer = tokenizer
        self.most = most
        characters = [chr(code) for code in (9, 10, *range(32, 127))]
        self._added, *tokens = self._count(["", *characters, *(2 * character for character in characters)])
        once, twice = np.split(np.array(tokens), 2)
        visible = np.array([not character.isspace() for character in characters])
        self._tells = bool((twice <= once + 1).all() and (once[visible] > self._added).all())
        self._beyond = int(once.max()) - 1  # tokens of a text beyond its bytes, at most

    def doubtful(self, prompts: pa.ChunkedArray) -> BoolArray:
        """(N,) whether a prompt may have no tokens or too many, by its bytes alone; chats may.

        Args:
            prompts: sound ones, strings or chats.
        """
        if not self._tells or not is_text(prompts.type):
            return np.ones(len(prompts), dtype=np.bool_)
        plain, size = pc.string_is_ascii(prompts).to_numpy(), pc.binary_length(prompts).to_numpy()
        return ~(plain & (size + self._beyond <= self.most))

    def still_doubtful(self, prompts: Sequence[Any]) -> BoolArray:
        """(n,) whether prompts may have no tokens or too many, now that they are encoded.

        Args:
            prompts: all strings, or all chats; those that the template refuses stay doubtful.
        """
        if isinstance(prompts[0], str):
            counts = np.array(self._count(prompts))
            return (counts > self.most) | (counts <= self._added)
        try:
            texts = self.tokenizer.apply_chat_template(list(prompts), add_generation_prompt=True, tokenize=False)
        except TemplateError:
            return np.ones(len(prompts), dtype=np.bool_)
        doubtful = self.doubtful(pa.chunked_array([texts], pa.string()))
        if doubtful.any():
            encoded = [text for text, unsure in zip(texts, doubtful.tolist(), strict=True) if unsure]
            counts = np.array(self._count(encoded, add_special_tokens=False))
            doubtful[doubtful] = (counts > self.most) | (counts == 0)
        return doubtful

    def _count(self, texts: Sequence[str], **options: Any) -> list[int]:
        """Tokens of each text."""
        return [
            len(tokens) for tokens in self.tokenizer(list(texts), return_attention_mask=False, **options)["input_ids"]
        ]


def picked(prompts: pa.ChunkedArray, chosen: BoolArray) -> Iterator[tuple[IntArray, list[Any]]]:
    """Positions and prompts of those that are chosen (N,), a batch at a time."""
    for start in range(0, len(prompts), BATCH):
        mask = chosen[start : start + BATCH]
        if mask.any():
            batch = prompts.slice(start, BATCH).filter(pa.array(mask)).to_pylist()
            yield start + np.flatnonzero(mask), [as_prompt(prompt) for prompt in batch]
