r"""The form of an answer: one thing, a list or a set, a tuple, an interval or a matrix, and the names that it gives.

Sets and lists are compared in any order, tuples and intervals in theirs and with their brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from bots_lightning.rewards.maths_typography import number

OPENING = {"(": ")", "[": "]", r"\{": r"\}", "{": "}"}
CLOSING = {")", "]", r"\}", "}"}
TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|.", re.DOTALL)
CONNECTOR = re.compile(r"\s*,?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")
MEMBER = re.compile(r"[A-Za-z]\s*\\in(?![A-Za-z])\s*")
NAME = r"(?:\\text\s*\{[^{}]*\}|\\?[A-Za-z]+)(?:_(?:\w|\{\w+\}))?(?:\s*\([a-z](?:,\s*[a-z])*\))?"
NAMED = re.compile(rf"\s*({NAME}|\(\s*\\?[A-Za-z]+(?:\s*,\s*\\?[A-Za-z]+)+\s*\))\s*=(?!=)\s*(.+)", re.DOTALL)
FUNCTION = re.compile(r"[A-Za-z]\s*\(\s*[a-z]\s*\)")
POINT = re.compile(r"\s*[A-Z]\s*(?=\(.*,.*\)$)", re.DOTALL)
TABLE = r"\{[pbB]?(?:matrix|array)\}"
MATRIX = re.compile(rf"\\begin{TABLE}(?:\{{[clr|]+\}})?(.*?)\\end{TABLE}", re.DOTALL)

Part = tuple[str | None, str]


class Form(NamedTuple):
    r"""An answer taken apart.

    Attributes:
        brackets: "" for one thing, "," for a list, `\{\}` for a set, "()", "[)", …; "3x3" for a matrix of two rows.
        parts: (name or None, text) of each.
    """

    brackets: str
    parts: tuple[Part, ...]


def split(text: str, separators: Sequence[str] = (",", ";")) -> list[str]:
    """The parts between separators (tokens of LaTeX: a character or a command) that stand in no bracket."""
    parts, depth = [""], 0
    for token in TOKEN.findall(text):
        depth += (token in OPENING) - (token in CLOSING)
        if depth == 0 and token in separators:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts]


def form(text: str) -> Form:
    """What a tidied answer is made of."""
    if number(text):  # 1,234
        return _scalar(text)
    if matrix := MATRIX.fullmatch(text):
        return _matrix(matrix.group(1))
    text = CONNECTOR.sub(", ", text)
    text = POINT.sub("", MEMBER.sub("", text, count=1) if MEMBER.match(text) else text)
    parts = [part for part in split(text) if part]
    if len(parts) > 1:
        if (first := NAMED.fullmatch(parts[0])) and not any(NAMED.fullmatch(part) for part in parts[1:]):
            parts[0] = first.group(2)  # x = 1, 2
        return Form(",", _named(parts))
    if (whole := NAMED.fullmatch(text)) and (inner := form(whole.group(2))).brackets:
        return inner  # (x, y) = (1, 2)
    return _bracketed(text) or _scalar(text)


def _scalar(text: str) -> Form:
    """One thing, or the two that ± makes of it."""
    if len(halves := re.split(r"\\pm(?![A-Za-z])", text)) == 2:
        return Form(",", _named([halves[0] + sign + halves[1] for sign in "+-"]))
    return Form("", _named([text]))


def _bracketed(text: str) -> Form | None:
    """The form of a text that one pair of brackets encloses, if there are commas in it; a set needs none."""
    tokens = TOKEN.findall(text)
    if len(tokens) < 3 or tokens[0] not in OPENING or tokens[-1] not in CLOSING:
        return None
    parts = split("".join(tokens[1:-1]))
    is_set = tokens[0] in (r"\{", "{")
    if is_set != (tokens[-1] in (r"\}", "}")) or (len(parts) < 2 and tokens[0] != r"\{") or "" in parts:
        return None
    if is_set:
        members = tuple(piece for part in parts for piece in _scalar(part).parts)
        return Form(r"\{\}" if len(members) > 1 else "", members)
    return Form(tokens[0] + tokens[-1], tuple((None, part) for part in parts))


def _matrix(content: str) -> Form:
    """A column is the tuple of its cells."""
    rows = [row.split("&") for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", content) if row.strip()]
    cells = tuple((None, cell.strip()) for row in rows for cell in row)
    column = all(len(row) == 1 for row in rows) and len(rows) > 1
    return Form("()" if column else "x".join(str(len(row)) for row in rows), cells)


def balanced(text: str, brackets: str = "{}") -> bool:
    """Whether every bracket closes that has opened, and none else."""
    steps = [1 if token in OPENING else -1 for token in TOKEN.findall(text) if token in brackets]
    depths = list(accumulate(steps, initial=0))
    return min(depths) == 0 == depths[-1]


def _named(parts: Sequence[str]) -> tuple[Part, ...]:
    """Names and values; f(x) = … and y = … are the same name."""
    matches = [NAMED.fullmatch(part) for part in parts]
    return tuple(
        (FUNCTION.sub("y", match.group(1)), match.group(2)) if match else (None, part)
        for match, part in zip(matches, parts, strict=True)
    )


def same_form(gold: Form, prediction: Form, same: Callable[[str, str], bool]) -> bool:
    """Whether two answers of more than one part agree; `same` compares the parts."""
    brackets = {gold.brackets, prediction.brackets}
    if len(gold.parts) != len(prediction.parts) or len(brackets - {","}) > 1:
        return False
    named = [len({name for name, _ in form.parts}) > 1 for form in (gold, prediction)]
    if brackets <= {",", r"\{\}"} and named[0] == named[1]:
        return _same_in_any_order(gold.parts, prediction.parts, same)
    return all(same(g, p) for (_, g), (_, p) in zip(gold.parts, prediction.parts, strict=True))


def _same_in_any_order(gold: Sequence[Part], prediction: Sequence[Part], same: Callable[[str, str], bool]) -> bool:
    """Whether the parts pair off; each is taken with the first that it equals."""
    left = list(prediction)
    for name, text in gold:
        for i, (other, candidate) in enumerate(left):
            if (None in (name, other) or name == other) and same(text, candidate):
                del left[i]
                break
        else:
            return False
    return True
