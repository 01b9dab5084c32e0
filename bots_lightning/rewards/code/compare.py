"""Whether a program's output is the expected one."""

from __future__ import annotations

import math
import re
from decimal import Decimal

WHOLE = re.compile(r"[+-]?[0-9]+")
DECIMAL = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]{1,4})?")


def same_output(actual: bytes, expected: str, tolerance: float, lenient: bool = False) -> bool:
    """Whether the lines that are not blank have the same words, apart from white space.

    Where the expected word has a decimal point or an exponent, a number within the tolerance will do as well.

    Args:
        actual: standard output; other than UTF-8 is never right.
        expected: text.
        tolerance: relative and absolute; 0 for exactly the same text.
        lenient: words agree in upper and lower case (`YES`, `Yes`), and numbers by their value (`3.0`, `3`).
    """
    try:
        lines = _lines(actual.decode())
    except UnicodeDecodeError:
        return False
    wanted = _lines(expected)
    return [len(line) for line in lines] == [len(line) for line in wanted] and all(
        _same_word(word, target, tolerance) or (lenient and _alike(word, target))
        for line, other in zip(lines, wanted, strict=True)
        for word, target in zip(line, other, strict=True)
    )


def _lines(text: str) -> list[list[str]]:
    return [words for line in text.split("\n") if (words := line.split())]


def _same_word(word: str, target: str, tolerance: float) -> bool:
    if word == target:
        return True
    if not tolerance or not DECIMAL.fullmatch(target) or not _is_number(word):
        return False
    return math.isclose(float(word), float(target), rel_tol=tolerance, abs_tol=tolerance)


def _alike(word: str, target: str) -> bool:
    if _is_number(word) and _is_number(target):
        return Decimal(word) == Decimal(target)
    return word.casefold() == target.casefold()


def _is_number(word: str) -> bool:
    """Whether it is written in digits; what Python reads besides, such as `1_0`, is no number in an output."""
    return bool(WHOLE.fullmatch(word) or DECIMAL.fullmatch(word))
