"""Whether a program's output is the expected one."""

from __future__ import annotations

import math
import re

DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")


def same_output(actual: bytes, expected: str, tolerance: float) -> bool:
    """Whether the lines that are not blank have the same words, white space aside.

    Where the expected word has a decimal point or an exponent, a number within the tolerance will do as well.

    Args:
        actual: standard output; other than UTF-8 is never right.
        expected: text.
        tolerance: relative and absolute; 0 for exactly the same text.
    """
    try:
        lines = _lines(actual.decode())
    except UnicodeDecodeError:
        return False
    wanted = _lines(expected)
    return [len(line) for line in lines] == [len(line) for line in wanted] and all(
        _same_word(word, target, tolerance)
        for line, other in zip(lines, wanted, strict=True)
        for word, target in zip(line, other, strict=True)
    )


def _lines(text: str) -> list[list[str]]:
    return [words for line in text.split("\n") if (words := line.split())]


def _same_word(word: str, target: str, tolerance: float) -> bool:
    if word == target:
        return True
    if not tolerance or not DECIMAL.fullmatch(target):
        return False
    try:
        return math.isclose(float(word), float(target), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False
