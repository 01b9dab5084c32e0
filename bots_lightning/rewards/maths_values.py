r"""The mathematics of answers, by sympy: single values, sets of real numbers, equations and inequalities.

Values are compared exactly; only where a decimal is involved, which may have been rounded, to six digits. Expressions
with letters are the same if they agree to fifty digits at points that nobody would choose: two different polynomials
hardly ever do (Schwartz, 1980).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from latex2sympy2_extended.logic import And
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from bots_lightning.rewards.maths_typography import number

NORMALISED = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
CONVERTED = ConversionConfig(
    interpret_as_mixed_fractions=False, interpret_contains_as_eq=False, lowercase_symbols=False
)
CONSTANTS = {sympy.Symbol("i"): sympy.I, sympy.Symbol("e"): sympy.E}
# A difference is found in the first so many digits or, if it is tiny, in the second.
DIGITS = (50, 1000)
SIX_DIGITS = sympy.Rational(1, 10**6)
PRIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157)
# Two numbers side by side are no product, and words are none of letters.
NO_FORMULA = re.compile(r"(?<![_^])\d\s+[\d.]|[A-Za-z]{4,}")
COMMANDS = re.compile(r"\\(?:begin|end)\{[a-z]+\}|\\(?!text(?![A-Za-z]))[A-Za-z]+|(?<=_)\{[A-Za-z]+\}")
# The names of computations; their parser carries some of them out.
COMPUTATION = re.compile(
    r"\\(?:sum|prod|int|lim|d?binom|gcd|lcm|max|min|lfloor|lceil|det|p?mod|bmod|begin)(?![A-Za-z])|!|e\s*\^\s*\{[^{}]*\\(?:ln|log)(?![A-Za-z])"
)
# 9(7) is a product; their parser makes it a mixed number.
FACTORS = re.compile(r"((?<![_^\d.])\d[\d.]*|\))\s*\(")
DIVISION = re.compile(r"(?:[\d\s.,+(){}/:-]|\\frac|\\div)*(?:[/:]|\\frac|\\div)(?:[\d\s.,+(){}/:-]|\\frac|\\div)*")
SET = re.compile(
    r"\\(?:le|ge|ne|lt|gt|cup|cap|setminus|mathbb|emptyset|in|mid)(?![A-Za-z])|[<>]|\\\{\s*[A-Za-z]\s*[|:]"
)
BUILDER = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid|\||:)(.*)\\\}", re.DOTALL)
OR = re.compile(r"\\text\s*\{\s*or\s*\}|\\lor(?![A-Za-z])|(?<![A-Za-z\\])or(?![A-Za-z])")


@lru_cache(maxsize=1024)
def parsed(text: str) -> Any:
    """A tidied formula as a tree of sympy in which little is evaluated yet; None if it is none."""
    if NO_FORMULA.search(COMMANDS.sub("|", text)):
        return None
    text = FACTORS.sub(r"\1\\cdot (", text)
    try:
        tree = latex2sympy(text, convert_degrees=True, normalization_config=NORMALISED, conversion_config=CONVERTED)
    except Exception:  # its parser and sympy raise whatever they like, and what they cannot read is no formula
        return None
    return tree if isinstance(tree, sympy.Basic) else None


def value(text: str) -> Any:
    """The number or expression that a tidied formula means; None if it is none, or is undefined."""
    if typed := number(text):
        return sympy.Rational(typed.value) / (100 if typed.percent else 1)
    tree = parsed(text)
    return _evaluated(tree) if isinstance(tree, sympy.Expr) else None


def _evaluated(tree: Any) -> Any:
    found = tree.xreplace(CONSTANTS).doit()
    exact = {each: sympy.Rational(str(each)) for each in found.atoms(sympy.Float)}
    unknown = {each: sympy.Symbol(str(each)) for each in found.atoms(AppliedUndef)}
    found = found.xreplace(exact | unknown)
    return None if found.has(sympy.nan, sympy.zoo) else found


def worked_out(text: str, rational: bool = False) -> bool:
    r"""Whether nothing is left to compute: 16, 3/4, 2\sqrt{3} and 2^{10} are, 9 + 7, 2 \cdot 8 and 12/3 are not.

    Numbers that could be added or multiplied are left; so are computations by name, as of sums and factorials, and
    inequalities without a letter alone on one side.

    Args:
        text: a tidied answer.
        rational: whether the value should be rational, and so the answer a number, a power, a root or a logarithm.
    """
    if typed := number(text):
        return not typed.division
    if COMPUTATION.search(text):
        return False
    tree = parsed(text)
    if tree is None:
        return True
    if rational and (not _is_closed(tree) or (DIVISION.fullmatch(text) and tree.is_Integer)):
        return False
    sums = any(_is_open(node) for node in sympy.preorder_traversal(tree))
    relations = tree.atoms(Relational) if isinstance(tree, sympy.logic.boolalg.Boolean) else set()
    return not sums and (len(tree.free_symbols) != 1 or all(any(side.is_Symbol for side in r.args) for r in relations))


def _is_closed(node: Any) -> bool:
    """Whether a tree is a number, a power, a root or a function of numbers, a power of ten times one, or an inverse."""
    if isinstance(node, sympy.Mul):
        factors = [each for each in node.args if abs(each) != 1]
        others = [each for each in factors if not _is_divisor_or_scale(each)]
        return len(factors) < 3 and len(others) < 2 and all(map(_is_closed, factors))
    if isinstance(node, sympy.Pow):
        divisor = node.base.is_Integer or (node.base.is_Pow and node.base.exp.is_positive)
        return bool(divisor or not node.exp.is_negative) and all(map(_is_closed, node.args))
    if isinstance(node, sympy.Function):
        return not any(each.has(sympy.Function) or _is_open(each) for each in node.args)
    return node.is_Number or isinstance(node, sympy.UnevaluatedExpr)


def _is_open(node: Any) -> bool:
    """Whether two numbers stand in a sum or a product, signs, divisors and powers of ten aside."""
    if not isinstance(node, sympy.Add | sympy.Mul):
        return False
    numbers = [each for each in node.args if each.is_number and isinstance(each.doit(), sympy.Number)]
    if isinstance(node, sympy.Mul):
        numbers = [each for each in numbers if abs(each) != 1 and not _is_divisor_or_scale(each)]
    return len(numbers) > 1


def _is_divisor_or_scale(factor: Any) -> bool:
    if isinstance(factor, sympy.UnevaluatedExpr):  # a percent sign
        return True
    return bool(
        factor.is_Pow
        and (
            factor.base == 10
            or (factor.exp.is_negative and not factor.base.is_Rational)
            or (factor.exp.is_negative and factor.base.is_Integer)
        )
    )


def same_value(gold: str, prediction: str) -> bool:
    """Whether two tidied formulas mean the same number or expression."""
    a, b = value(gold), value(prediction)
    if a is None or b is None:
        return False
    letters = a.free_symbols | b.free_symbols
    rounded = any(re.search(r"\.\d", text) for text in (gold, prediction))
    if not letters:
        return _same_number(a, b, rounded)
    verdicts = [_same_at(_point(letters, turn), a, b, rounded) for turn in range(4)]
    return False not in verdicts and verdicts.count(True) > 1


def _point(letters: set[Any], turn: int) -> dict[Any, Any]:
    """A value for each letter, of both signs in odd turns."""
    point = {}
    for i, letter in enumerate(sorted(letters, key=str)):
        size = sympy.Rational(PRIMES[(i + 3 * turn) % len(PRIMES)] + 12 * i, 59 + 2 * turn)
        point[letter] = size * (-1) ** (turn * (i + 1))
    return point


def _same_at(point: dict[Any, Any], a: Any, b: Any, rounded: bool) -> bool | None:
    """Whether two expressions agree at a point; None if one of them is not defined there, or only one is real."""
    a, b = a.xreplace(point), b.xreplace(point)
    if a.has(sympy.nan, sympy.zoo) or b.has(sympy.nan, sympy.zoo):
        return None
    if _same_number(a, b, rounded):
        return True
    real = [abs(sympy.im(each.evalf(20))) < 1e-15 for each in (a, b)]
    return None if real[0] != real[1] else False


def _same_number(a: Any, b: Any, rounded: bool = False) -> bool:
    if a == b or a.is_infinite or b.is_infinite:
        return bool(a == b)
    if rounded:
        return _close(a, b, SIX_DIGITS * min(1, 1 / abs(a.evalf(20))) if abs(a.evalf(20)) > 1 else SIX_DIGITS)
    if a == 0 or b == 0 or (a.is_Rational and b.is_Rational):
        return (a - b).equals(0) is True
    return all(_close(a.evalf(n), b.evalf(n), sympy.Float(10, n) ** (5 - n)) for n in DIGITS)


def _close(a: Any, b: Any, tolerance: Any) -> bool:
    return (abs(a - b) <= tolerance * abs(a)) == True  # noqa: E712 - what sympy cannot decide is no truth value


def same_numbers(gold: str, prediction: str) -> bool | None:
    """Whether two tidied answers are the same set of real numbers; None if they are not both sets."""
    (a, letters), (b, others) = numbers_of(gold), numbers_of(prediction)
    if a is None or b is None:
        return None
    if len(letters | others) > 1 or (worked_out(gold) and not worked_out(prediction)):
        return False
    return bool(a == b)


def numbers_of(text: str) -> tuple[Any, set[str]]:
    """The set that an interval, a union, a condition or a name means, None if it is none; the letters it is said of."""
    if builder := BUILDER.fullmatch(text):
        text = builder.group(2).strip()
    if len(parts := OR.split(text)) > 1:
        sets = [numbers_of(part.strip()) for part in parts]
        letters = set().union(*(letters for _, letters in sets))
        return (None if any(each is None for each, _ in sets) else sympy.Union(*(each for each, _ in sets))), letters
    tree = parsed(text)
    letters = {str(letter) for letter in tree.free_symbols - CONSTANTS.keys()} if tree is not None else set()
    if isinstance(tree, sympy.Contains):
        tree = tree.args[1]
    if isinstance(tree, Relational | And):
        lines = [_half_line(each) for each in tree.atoms(Relational)]
        tree = None if None in lines else sympy.Intersection(*lines)
    return (_evaluated(tree) if isinstance(tree, sympy.Set) else None), letters


def _half_line(relation: Any) -> sympy.Set | None:
    """The numbers for which a relation of a letter and a number holds; None if it is not of those."""
    if not relation.lhs.is_Symbol:
        relation = relation.reversed
    bound = _evaluated(relation.rhs)
    if not relation.lhs.is_Symbol or bound is None or not bound.is_number:
        return None
    low, high, point = (
        sympy.Interval.open(-sympy.oo, bound),
        sympy.Interval.open(bound, sympy.oo),
        sympy.FiniteSet(bound),
    )
    sets = {sympy.Lt: [low], sympy.Le: [low, point], sympy.Gt: [high], sympy.Ge: [high, point], sympy.Eq: [point]}
    return sympy.Union(*sets.get(relation.func, [low, high]))


def same_relation(gold: str, prediction: str) -> bool:
    """Whether two equations, or two inequalities, are multiples of each other, such as y = 2x + 3 and 4x - 2y = -6."""
    trees = parsed(gold), parsed(prediction)
    if not all(isinstance(tree, Relational) for tree in trees) or (_is_solved(trees[0]) and not _is_solved(trees[1])):
        return False
    (kind, a), (other, b) = map(_difference, trees)
    letters = (a.free_symbols | b.free_symbols) - CONSTANTS.keys()
    ratios = [_evaluated((a / b).xreplace(_point(letters, turn))) for turn in range(3)]
    if kind is not other or not letters or any(ratio is None or ratio == 0 for ratio in ratios):
        return False
    signed = kind in (sympy.Eq, sympy.Ne) or ratios[0].evalf(20) > 0
    return bool(signed) and all(_same_number(ratios[0], ratio) for ratio in ratios[1:])


def _is_solved(relation: Any) -> bool:
    """Whether one side is a letter and the other a number: 2x = 10 is not the answer x = 5."""
    return any(side.is_Symbol for side in relation.args) and any(side.is_number for side in relation.args)


def _difference(relation: Any) -> tuple[Any, Any]:
    """The kind of a relation, ≥ and > turned round, and its left side less its right side."""
    turned = relation.reversed if relation.func in (sympy.Ge, sympy.Gt) else relation
    return turned.func, turned.lhs - turned.rhs
