"""Finds prompts without tokens or with too many; the bytes of most are few enough that they need not be encoded."""

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

BATCH = 1024  # prompts encoded at a time

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class LengthCheck:
    """Selects the prompts whose tokens must be counted one by one.

    Every token, except those that the tokenizer adds, represents at least one byte of text, provided that the
    tokenizer does not lengthen texts before it splits them. Unicode normalization does not change ASCII; any other
    change by the tokenizer is tested with every ASCII character.

    Args:
        tokenizer: of transformers.
        most: largest number of tokens that a prompt may have.
    """

    def __init__(self, tokenizer: Any, most: float) -> None:
        self.tokenizer = tokenizer
        self.most = most
        characters = [chr(code) for code in (9, 10, *range(32, 127))]
        self._added, *tokens = self._count(["", *characters, *(2 * character for character in characters)])
        once, twice = np.split(np.array(tokens), 2)
        visible = np.array([not character.isspace() for character in characters])
        self._bounded = bool((twice <= once + 1).all() and (once[visible] > self._added).all())
        self._beyond = int(once.max()) - 1  # a text has at most this many more tokens than bytes

    def doubtful(self, prompts: pa.ChunkedArray) -> BoolArray:
        """Whether a prompt may have no tokens or too many, by its bytes alone, (N,); always True for chats.

        Args:
            prompts: N valid strings or chats.
        """
        if not self._bounded or not is_text(prompts.type):
            return np.ones(len(prompts), dtype=np.bool_)
        plain, size = pc.string_is_ascii(prompts).to_numpy(), pc.binary_length(prompts).to_numpy()
        return ~(plain & (size + self._beyond <= self.most))

    def still_doubtful(self, prompts: Sequence[Any]) -> BoolArray:
        """Whether prompts may have no tokens or too many, (n,), after they were encoded as a batch.

        Args:
            prompts: n strings, or n chats; all are doubtful if the chat template raises an error.
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
        """Number of tokens of each text."""
        return [
            len(tokens) for tokens in self.tokenizer(list(texts), return_attention_mask=False, **options)["input_ids"]
        ]


def picked(prompts: pa.ChunkedArray, chosen: BoolArray) -> Iterator[tuple[IntArray, list[Any]]]:
    """Iterates over the chosen prompts in batches.

    Args:
        prompts: N strings or chats.
        chosen: (N,) mask.

    Yields:
        Positions and prompts, up to `BATCH` each.
    """
    for start in range(0, len(prompts), BATCH):
        mask = chosen[start : start + BATCH]
        if mask.any():
            batch = prompts.slice(start, BATCH).filter(pa.array(mask)).to_pylist()
            yield start + np.flatnonzero(mask), [as_prompt(prompt) for prompt in batch]
