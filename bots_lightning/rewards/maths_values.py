r"""The mathematics of answers, by sympy: single values, sets of numbers, equations and inequalities.

Values are compared exactly; only where a decimal is involved, which may have been rounded, to six digits. Expressions
with letters are the same if they agree to fifty digits at some points that nobody would choose (a polynomial identity
that fails there is found with certainty for all practical purposes; Schwartz, 1980).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy.core.function import AppliedUndef

from bots_lightning.rewards.maths_forms import CONNECTOR, MEMBER, split
from bots_lightning.rewards.maths_typography import number

NORMALISED = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
CONVERTED = ConversionConfig(interpret_contains_as_eq=False, lowercase_symbols=False)
CONSTANTS = {sympy.Symbol("i"): sympy.I, sympy.Symbol("e"): sympy.E}
# Digits, twice: a difference is found by the first or, if it is tiny, by the second.
DIGITS = (50, 1000)
PRIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157)
# Two numbers side by side are no product, and words are none of letters.
NO_FORMULA = re.compile(r"(?<![_^])\d\s+[\d.]|[A-Za-z]{4,}")
COMMANDS = re.compile(r"\\(?:begin|end)\{[a-z]+\}|\\(?!text(?![A-Za-z]))[A-Za-z]+|(?<=_)\{[A-Za-z]+\}")
# What is the name of a computation and not of a number.
UNEVALUATED = re.compile(r"\\(?:sum|prod|int|lim|d?binom|gcd|lcm|max|min|lfloor|lceil|det|p?mod|bmod)(?![A-Za-z])|!")
DIVIDED = re.compile(r"(?:[\d\s.,+(){}/-]|\\frac|\\div)*(?:/|\\frac|\\div)(?:[\d\s.,+(){}/-]|\\frac|\\div)*")
RELATION = re.compile(r"\\(?:le|ge|ne|lt|gt)(?![A-Za-z])|[<>]|(?<![\\<>!=])=(?!=)")
SIGNS = {r"\le": "≤", r"\ge": "≥", r"\ne": "≠", r"\lt": "<", r"\gt": ">", "<": "<", ">": ">", "=": "="}
MIRRORED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠"}
SET = re.compile(r"\\(?:le|ge|ne|lt|gt|cup|cap|setminus|mathbb|emptyset|in|mid)(?![A-Za-z])|[<>]")
BUILDER = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid|\||:)(.*)\\\}", re.DOTALL)
LETTER = re.compile(r"\\?[A-Za-z]+(?:_\w|_\{\w+\})?")


class Numbers(NamedTuple):
    """A set of real numbers and the letter that it is said of, if any."""

    members: sympy.Set
    letter: str | None = None


@lru_cache(maxsize=1024)
def parsed(text: str) -> Any:
    """A tidied formula as a tree of sympy in which nothing is evaluated yet; None if it is none."""
    if NO_FORMULA.search(COMMANDS.sub("|", text)):
        return None
    try:
        tree = latex2sympy(text, convert_degrees=True, normalization_config=NORMALISED, conversion_config=CONVERTED)
    except Exception:  # its parser and sympy raise whatever they like, and what they cannot read is no formula
        return None
    return tree if isinstance(tree, sympy.Expr) else None


def value(text: str) -> Any:
    """The expression that a tidied formula means; None if it is none, or is undefined."""
    if typed := number(text):
        return sympy.Rational(typed.value) / (100 if typed.percent else 1)
    tree = parsed(text)
    if tree is None:
        return None
    found = tree.xreplace(CONSTANTS).doit()
    exact = {each: sympy.Rational(str(each)) for each in found.atoms(sympy.Float)}
    unknown = {each: sympy.Symbol(str(each)) for each in found.atoms(AppliedUndef)}
    found = found.xreplace(exact | unknown)
    return None if found.has(sympy.nan, sympy.zoo) else found


def worked_out(text: str) -> bool:
    r"""Whether nothing is left to compute: 16, 3/4, 2\sqrt{3} and 2^{10} are, 9 + 7, 2 \cdot 8 and 12/3 are not.

    Numbers that could be added or multiplied are, and so are the names of computations, as of sums and factorials.
    """
    if typed := number(text):
        return not typed.division
    if UNEVALUATED.search(text):
        return False
    tree = parsed(text)
    if tree is None or value(text) is None:
        return True
    if DIVIDED.fullmatch(text) and not tree.free_symbols and value(text).is_Integer:
        return False
    tree = tree.xreplace(_point(tree.free_symbols, 0)) if tree.free_symbols and value(text).is_number else tree
    return not any(_is_open(node) for node in sympy.preorder_traversal(tree))


def _is_open(node: Any) -> bool:
    """Whether two rational numbers stand in a sum or a product, signs, divisors and powers of ten aside."""
    if not isinstance(node, sympy.Add | sympy.Mul):
        return False
    numbers = [each for each in node.args if each.is_number and isinstance(each.doit(), sympy.Number)]
    if isinstance(node, sympy.Mul):
        numbers = [each for each in numbers if abs(each) != 1 and not _is_divisor_or_scale(each)]
    return len(numbers) > 1


def _is_divisor_or_scale(factor: Any) -> bool:
    if isinstance(factor, sympy.UnevaluatedExpr):  # a percent sign
        return True
    return factor.is_Pow and (factor.exp.is_negative or factor.base == 10) or (factor.is_Rational and factor.p == 1)


def same_value(gold: str, prediction: str) -> bool:
    """Whether two tidied formulas mean the same number or expression."""
    a, b = value(gold), value(prediction)
    if a is None or b is None:
        return False
    letters = a.free_symbols | b.free_symbols
    rounded = any(re.search(r"\d?\.\d", text) for text in (gold, prediction))
    if not letters:
        return _same_number(a, b, rounded)
    verdicts = [_same_at(_point(letters, turn), a, b, rounded) for turn in range(4)]
    return False not in verdicts and verdicts.count(True) > 1


def _point(letters: set[Any], turn: int) -> dict[Any, Any]:
    """A value for each letter, of both signs in odd turns."""
    ordered = sorted(letters, key=str)
    values = [sympy.Rational(PRIMES[(i + 3 * turn) % 12] + 12 * i, 59 + 2 * turn) for i in range(len(ordered))]
    return {letter: each * (-1) ** (turn * (i + 1)) for i, (letter, each) in enumerate(zip(ordered, values, strict=True))}


def _same_at(point: dict[Any, Any], a: Any, b: Any, rounded: bool) -> bool | None:
    """Whether two expressions agree at a point; None if one of them is not defined there, or only one is real."""
    a, b = a.xreplace(point), b.xreplace(point)
    if any(each.has(sympy.nan, sympy.zoo) for each in (a, b)):
        return None
    if _same_number(a, b, rounded):
        return True
    real = [abs(sympy.im(each.evalf(20))) < 1e-15 for each in (a, b)]
    return None if real[0] != real[1] else False


def _same_number(a: Any, b: Any, rounded: bool) -> bool:
    if a.is_Rational and b.is_Rational or a.is_infinite or b.is_infinite:
        return bool(a == b) or (rounded and _close(a, b, sympy.Rational(1, 10**6), most=1))
    if a.is_Rational and a == 0 or b == 0:
        return (a - b).equals(0) is True
    if rounded:
        return _close(a.evalf(20), b.evalf(20), sympy.Rational(1, 10**6), most=1)
    return all(_close(a.evalf(n), b.evalf(n), sympy.Float(10, n) ** (5 - n)) for n in DIGITS)


def _close(a: Any, b: Any, tolerance: Any, most: float | None = None) -> bool:
    """Whether b differs from a by no more than the tolerance times |a|, or times `most` if that is less."""
    size = abs(a) if most is None else min(abs(a), most)
    return (abs(a - b) <= tolerance * size) == True  # noqa: E712 - what sympy cannot decide is no truth value


def same_numbers(gold: str, prediction: str) -> bool | None:
    """Whether two tidied answers are the same set of real numbers; None if they are not both sets."""
    sets = numbers_of(gold), numbers_of(prediction)
    if not (sets[0] and sets[1]):
        return None
    if None not in (sets[0].letter, sets[1].letter) and sets[0].letter != sets[1].letter:
        return False
    pieces = [_pieces(each.members) for each in sets]
    if None in pieces or len(pieces[0]) != len(pieces[1]):
        return sets[0].members == sets[1].members
    return all(
        a[2:] == b[2:] and all(x == y or _same_number(x, y, False) for x, y in zip(a[:2], b[:2], strict=True))
        for a, b in zip(*pieces, strict=True)
    )


def numbers_of(text: str) -> Numbers | None:
    """The set of real numbers that a tidied answer is, as an interval, a union, a condition or a name."""
    text = text.strip()
    if member := MEMBER.match(text):
        inner = numbers_of(text[member.end() :])
        return inner and Numbers(inner.members, text[0])
    if builder := BUILDER.fullmatch(text):
        return numbers_of(builder.group(2))
    if (text.startswith(r"\mathbb{R}") or r"\cup" in text) and len(pair := split(text, (r"\setminus", r"\backslash"))) == 2:
        return _combined(pair, sympy.Complement)
    if len(parts := split(text, (r"\cup",))) > 1 or len(parts := re.split(r"\\text\s*\{\s*or\s*\}|\bor\b", text)) > 1:
        return _combined(parts, sympy.Union)
    if len(parts := split(text, (r"\cap",))) > 1 or len(parts := split(CONNECTOR.sub(",", text), (",",))) > 1:
        if all(RELATION.search(part) for part in parts) or r"\cap" in text:
            return _combined(parts, sympy.Intersection)
    return _simple_set(text)


def _combined(parts: list[str], how: Any) -> Numbers | None:
    sets = [numbers_of(part) for part in parts]
    if any(each is None for each in sets):
        return None
    letters = {each.letter for each in sets if each and each.letter}
    if len(letters) > 1:
        return None
    return Numbers(how(*(each.members for each in sets if each)), next(iter(letters), None))


def _simple_set(text: str) -> Numbers | None:
    if named := {r"\mathbb{R}": sympy.S.Reals, r"\emptyset": sympy.S.EmptySet}.get(text):
        return Numbers(named)
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and len(ends := split(text[1:-1], (",",))) == 2:
        low, high = map(value, ends)
        return _interval(low, high, text[0] == "(", text[-1] == ")")
    if text.startswith(r"\{") and text.endswith(r"\}"):
        members = [value(each) for each in split(text[2:-2])]
        return None if None in members else Numbers(sympy.FiniteSet(*members))
    return _condition(text)


def _condition(text: str) -> Numbers | None:
    """Of `x > 3`, `2 \\le x < 5`, `x \\ne 0`."""
    sides = [side.strip() for side in RELATION.split(text)]
    signs = [SIGNS[sign] for sign in RELATION.findall(text)]
    letter = next((side for side in sides if LETTER.fullmatch(side) and side not in ("e", r"\pi", r"\infty")), None)
    if letter is None or len(sides) > 3 or not signs:
        return None
    found: list[sympy.Set] = []
    for left, sign, right in zip(sides, signs, sides[1:], strict=False):
        if letter not in (left, right):
            return None
        sign = sign if left == letter else MIRRORED[sign]
        bound = value(right if left == letter else left)
        if bound is None or bound.free_symbols:
            return None
        found.append(_half_line(sign, bound))
    return Numbers(sympy.Intersection(*found), letter)


def _half_line(sign: str, bound: Any) -> sympy.Set:
    low, high = sympy.Interval.open(-sympy.oo, bound), sympy.Interval.open(bound, sympy.oo)
    point = sympy.FiniteSet(bound)
    sets = {"<": [low], "≤": [low, point], ">": [high], "≥": [high, point], "=": [point], "≠": [low, high]}
    return sympy.Union(*sets[sign])


def _interval(low: Any, high: Any, left_open: bool, right_open: bool) -> Numbers | None:
    if low is None or high is None or low.is_extended_real is False or high.is_extended_real is False:
        return None
    return Numbers(sympy.Interval(low, high, left_open, right_open))


def _pieces(members: sympy.Set) -> list[tuple[Any, Any, bool, bool]] | None:
    """Its intervals and points in order, as (start, end, left open, right open); None if it is no union of such."""
    pieces: list[tuple[Any, Any, bool, bool]] = []
    for part in members.args if isinstance(members, sympy.Union) else [members]:
        if isinstance(part, sympy.Interval):
            pieces.append((part.start, part.end, bool(part.left_open), bool(part.right_open)))
        elif isinstance(part, sympy.FiniteSet):
            pieces += [(each, each, False, False) for each in part.args]
        elif part == sympy.S.Reals:
            pieces.append((-sympy.oo, sympy.oo, True, True))
        elif part is not sympy.S.EmptySet:
            return None
    return None if any(a.free_symbols for a, *_ in pieces) else sorted(pieces, key=lambda piece: piece[0].evalf(30))


def same_relation(gold: str, prediction: str) -> bool:
    """Whether two equations, or two inequalities, are multiples of each other, such as y = 2x + 3 and 4x - 2y = -6."""
    sides = [_difference(text) for text in (gold, prediction)]
    if sides[0] is None or sides[1] is None or sides[0][0] != sides[1][0]:
        return False
    sign, a, b = sides[0][0], sides[0][1], sides[1][1]
    letters = a.free_symbols | b.free_symbols
    ratios = [(a / b).xreplace(_point(letters, turn)) for turn in range(3)]
    if not letters or any(ratio.has(sympy.nan, sympy.zoo) or ratio == 0 for ratio in ratios):
        return False
    positive = sign in "=≠" or ratios[0].evalf(20) > 0
    return bool(positive) and all(_same_number(ratios[0], ratio, False) for ratio in ratios[1:])


def _difference(text: str) -> tuple[str, Any] | None:
    """The sign of a relation, ≥ and > turned round, and its left side less its right side."""
    sides, signs = RELATION.split(text), RELATION.findall(text)
    if len(signs) != 1:
        return None
    left, right = map(value, (side.strip() for side in sides))
    if left is None or right is None:
        return None
    sign = SIGNS[signs[0]]
    return (MIRRORED[sign], right - left) if sign in ">≥" else (sign, left - right)
