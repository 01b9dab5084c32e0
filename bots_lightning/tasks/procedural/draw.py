"""Levels, letters and random draws of short sequences, shared by the families."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

LEVELS = tuple(range(1, 9))
LETTERS = "abcdefghij"

# A family: draws one (prompt, answer) of a level.
Family = Callable[[np.random.Generator, int], tuple[str, str]]


def integers(rng: np.random.Generator, low: int, high: int, size: int) -> list[int]:
    """`size` uniform draws from low, …, high − 1."""
    return rng.integers(low, high, size).tolist()


def bits(rng: np.random.Generator, size: int) -> str:
    """A string of `size` uniform bits."""
    return format(int(rng.integers(1 << size)), f"0{size}b")


def letters(rng: np.random.Generator, size: int) -> str:
    """`size` letters; a letter may appear more than once."""
    return "".join([LETTERS[i] for i in integers(rng, 0, len(LETTERS), size)])


def distinct_letters(rng: np.random.Generator, size: int) -> str:
    """`size` letters in random order, each at most once."""
    return "".join(shuffled(rng, LETTERS)[:size])


def shuffled(rng: np.random.Generator, items: Sequence[str]) -> list[str]:
    """The items in random order."""
    return [items[i] for i in rng.permutation(len(items)).tolist()]
