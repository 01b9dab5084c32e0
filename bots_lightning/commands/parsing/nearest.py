"""Guesses what a misspelt word was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

SHORTEST = 4  # letters; a shorter beginning is ambiguous


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like the given one in any case, or else the only one that begins with it.

    Args:
        word: as typed.
        known: to choose from.

    Returns:
        a known word; None if none is similar.
    """
    folded = {_folded(name): name for name in known}
    found = get_close_matches(_folded(word), folded, n=1, cutoff=0.7)
    begun = [name for name in folded if len(word) >= SHORTEST and name.startswith(_folded(word))]
    found = found or begun[: len(begun) == 1]
    return folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """The end of a message: `; did you mean X?`, or a full stop if no known word is similar.

    Args:
        word: as typed.
        known: to choose from.
        before: is put in front of X.
    """
    found = nearest(word, known)
    return "." if found is None else f"; did you mean {before}{found}?"


def _folded(word: str) -> str:
    return word.lower().replace("-", "_")
