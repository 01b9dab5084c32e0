"""Different values are never equal, and a value equals itself however it is typeset.

The ground truth is exact: rational arithmetic on a canonical form, or distinct by construction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise, permutations
from math import comb, factorial, isqrt
from random import Random
from typing import Any, NamedTuple

import pytest

pytest.importorskip("latex2sympy2_extended")

from bots_lightning.rewards.maths_grader import equal

CLUSTERS_PER_KIND = 6
PAIRS_PER_KIND, PAIRS_ACROSS = 110, 460  # 14 · 110 + 460 = 2,000
COPIES_PER_CLUSTER = 3

Monomial = tuple[int, tuple[tuple[str, int], ...]]


@dataclass(frozen=True)
class Exact:
    """A sum of rational multiples of square roots, letters, π, e and i, in its one canonical form.

    Attributes:
        terms: (square-free radicand, powers of the letters), and the coefficient, which is not 0.
    """

    terms: frozenset[tuple[Monomial, Fraction]]

    @staticmethod
    def of(terms: Iterable[tuple[Monomial, Fraction]]) -> Exact:
        total: dict[Monomial, Fraction] = {}
        for monomial, coefficient in terms:
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
        return Exact(frozenset((monomial, c) for monomial, c in total.items() if c))

    def __add__(self, other: Exact) -> Exact:
        return Exact.of([*self.terms, *other.terms])

    def __mul__(self, other: Exact) -> Exact:
        return Exact.of(_product(one, two) for one in self.terms for two in other.terms)

    def __pow__(self, exponent: int) -> Exact:
        result = rational(1)
        for _ in range(exponent):
            result *= self
        return result


def _product(one: tuple[Monomial, Fraction], two: tuple[Monomial, Fraction]) -> tuple[Monomial, Fraction]:
    ((root_one, letters_one), c_one), ((root_two, letters_two), c_two) = one, two
    outside, inside = square_part(root_one * root_two)
    powers = dict(letters_one)
    for name, power in letters_two:
        powers[name] = powers.get(name, 0) + power
    sign = -1 if powers.get("i", 0) % 4 > 1 else 1
    if "i" in powers:
        powers["i"] %= 2
    letters = tuple(sorted((name, power) for name, power in powers.items() if power))
    return (inside, letters), c_one * c_two * outside * sign


@cache
def square_part(n: int) -> tuple[int, int]:
    """(a, b) with n = a² b and no square of a factor below 5,000 left in b."""
    outside, inside = isqrt(n), 1
    if outside**2 == n:
        return outside, inside
    outside, inside = 1, n
    for factor in range(2, 5_000):
        while inside % factor**2 == 0:
            outside, inside = outside * factor, inside // factor**2
    return outside, inside


def rational(p: int | Fraction, q: int = 1) -> Exact:
    return Exact.of([((1, ()), Fraction(p) / q)])


def root(n: int) -> Exact:
    outside, inside = square_part(n)
    return Exact.of([((inside, ()), Fraction(outside))])


def letter(name: str, power: int = 1) -> Exact:
    return rational(1) * Exact.of([((1, ((name, power),)), Fraction(1))])


class Value(NamedTuple):
    """A value: what it is, and LaTeX for it; different keys are different values."""

    key: Any
    texts: tuple[str, ...]
    decimals: tuple[str, ...] = ()  # a decimal may pass for what it rounds: not compared with other values


Cluster = list[Value]  # values that are easily taken for each other


def signed(text: str, positive: bool = True) -> str:
    return text if positive else "-" + text


# Kinds of values


def rationals(draw: Random) -> Cluster:
    p, q = draw.choice([(draw.randint(1, 40), draw.randint(2, 40)), (draw.randint(1_000, 10**7), 1), (1, 2), (1, 3)])
    near = {Fraction(*pair) for pair in ((p, q), (p + 1, q), (p, q + 1), (q, p), (10 * p, q), (-p, q))}
    return [a_rational(value) for value in near]


def a_rational(value: Fraction) -> Value:
    positive, p, q = value >= 0, abs(value.numerator), value.denominator
    if q == 1:
        separators = [",", "{,}", r"\,", r",\!"] if p > 999 else []
        texts = [str(p), *(f"{p:,}".replace(",", separator) for separator in separators)]
        return Value(rational(value), tuple(signed(t, positive) for t in texts), (signed(f"{p}.0", positive),))
    texts = [signed(t, positive) for t in (rf"\frac{{{p}}}{{{q}}}", f"{p}/{q}")]
    if not positive:
        texts += [rf"\frac{{-{p}}}{{{q}}}", rf"\frac{{{p}}}{{-{q}}}"]
    elif p > q:
        texts.append(rf"{p // q}\frac{{{p % q}}}{{{q}}}")
    single = {(1, 2): "½", (1, 3): "⅓", (2, 3): "⅔", (1, 4): "¼", (3, 4): "¾", (1, 5): "⅕", (1, 8): "⅛"}
    if (p % q, q) in single:
        texts.append(signed((str(p // q) if p > q else "") + single[p % q, q], positive))
    return Value(rational(value), tuple(texts), tuple(signed(d, positive) for d in decimals(p, q)))


def decimals(p: int, q: int) -> list[str]:
    """p/q as a decimal, with the digits that recur under a bar; none where there are many."""
    if q > 1_000:
        return []
    digits, seen, rest = "", {}, p % q
    while rest and rest not in seen:
        seen[rest] = len(digits)
        digits, rest = digits + str(10 * rest // q), 10 * rest % q
    if not rest:
        return [f"{p // q}.{digits}", f"{p // q}.{digits}0"]
    start = seen[rest]
    if len(digits) - start > 6:
        return []
    return [rf"{p // q}.{digits[:start]}\{bar}{{{digits[start:]}}}" for bar in ("overline", "bar")]


def finite_decimals(draw: Random) -> Cluster:
    """Decimals that differ in their first six digits or first five places; closer ones may pass for each other."""
    most_digits, most_places = draw.choice([(9, 5), (5, 9)])
    places, n = draw.randint(1, most_places), draw.randint(1, 10**most_digits)
    numerators = {m for m in (n, n + 1, n + 3, n + 10) if m % 10}
    return [a_decimal(m, places) for m in numerators]


def a_decimal(numerator: int, places: int) -> Value:
    digits = str(numerator).zfill(places + 1)
    whole, after = digits[:-places], digits[-places:]
    texts = [f"{whole}.{after}", f"{whole}.{after}00"]
    if whole == "0":
        texts.append(f".{after}")
    if len(whole) > 3:
        texts.append(f"{int(whole):,}.{after}")
    return Value(rational(numerator, 10**places), tuple(texts))


def powers(draw: Random) -> Cluster:
    p, q, n = draw.randint(1, 9), draw.randint(2, 9), draw.choice([2, 3, 7, 30, 40, 99, 100])
    bases = [(p, q, n), (p, q, n + 1), (p, q, n - 1), (p + 1, q, n)]
    fractions = [
        Value(
            rational(Fraction(a, b) ** k),
            (
                rf"\left(\frac{{{a}}}{{{b}}}\right)^{{{k}}}",
                rf"\frac{{{a}^{{{k}}}}}{{{b}^{{{k}}}}}",
                rf"({a}/{b})^{{{k}}}",
                rf"({b}/{a})^{{-{k}}}",
            ),
        )
        for a, b, k in bases
    ]
    integers = [Value(rational(q**k), (f"{q}^{{{k}}}", f"{{{q}}}^{{{k}}}")) for k in (n, n + 1)]
    inverses = [
        Value(rational(1, q**k), (rf"\frac{{1}}{{{q}^{{{k}}}}}", f"1/{q}^{{{k}}}", f"{q}^{{-{k}}}")) for k in (n, n + 1)
    ]
    rest = [
        Value(
            rational(c - Fraction(1, q**k)),
            (rf"{c}-\frac{{1}}{{{q}^{{{k}}}}}", rf"-\frac{{1}}{{{q}^{{{k}}}}}+{c}", rf"{c}-{q}^{{-{k}}}"),
        )
        for c, k in ((1, n), (2, n), (1, n + 1))
    ]
    return [*fractions, *integers, *inverses, *rest, a_rational(Fraction(1)), a_rational(Fraction(2))]


def factorials(draw: Random) -> Cluster:
    n, m = draw.choice([4, 10, 20, 52, 100]), draw.choice([2, 3, 10])
    ratios = [
        Value(
            rational(factorial(a), m**b),
            (rf"\frac{{{a}!}}{{{m}^{{{b}}}}}", f"{a}!/{m}^{{{b}}}", rf"\frac{{1}}{{{m}^{{{b}}}}}\cdot {a}!"),
        )
        for a, b in ((n, n), (n, n + 1), (n + 1, n))
    ]
    inverses = [
        Value(rational(1, factorial(a)), (rf"\frac{{1}}{{{a}!}}", f"1/{a}!", f"({a}!)^{{-1}}")) for a in (n, n + 1)
    ]
    choices = [
        Value(
            rational(comb(n, k)),
            (rf"\binom{{{n}}}{{{k}}}", rf"\dbinom{{{n}}}{{{k}}}", rf"\binom{{{n}}}{{{n - k}}}"),
        )
        for k in (1, 2)
    ]
    plain = [Value(rational(factorial(a)), (f"{a}!", f"({a})!")) for a in (n, n + 1)]
    return [*ratios, *inverses, *choices, *plain]


def large_and_tiny(draw: Random) -> Cluster:
    b, n = draw.choice([2, 3, 5, 7, 10]), draw.choice([20, 40, 100])
    nearly_halves = [
        Value(
            rational(b**k + sign, 2 * b**k),
            (
                rf"\frac{{{b}^{{{k}}}{'+-'[sign < 0]}1}}{{2\cdot {b}^{{{k}}}}}",
                rf"({b}^{{{k}}}{'+-'[sign < 0]}1)/(2\cdot {b}^{{{k}}})",
                rf"\frac{{{sign}+{b}^{{{k}}}}}{{{b}^{{{k}}}\cdot 2}}",
            ),
        )
        for k, sign in ((n, 1), (n, -1), (n + 1, -1))
    ]
    tiny = [
        Value(rational(c, b**n), (rf"\frac{{{c}}}{{{b}^{{{n}}}}}", rf"{c}\cdot {b}^{{-{n}}}", f"{c}/{b}^{{{n}}}"))
        for c in (11, 13)
    ]
    large = [
        Value(rational(b**n + c), (f"{b}^{{{n}}}+{c}", f"{c}+{b}^{{{n}}}", f"{{{b}}}^{{{n}}}+{c}")) for c in (1, 2, 3)
    ]
    scientific = [
        Value(rational(c * Fraction(10) ** k), (rf"{c}\cdot 10^{{{k}}}", rf"10^{{{k}}}\cdot {c}"))
        for c, k in ((3, n), (3, n + 1), (3, -n), (4, -n))
    ]
    return [*nearly_halves, *tiny, *large, *scientific, a_rational(Fraction(1, 2)), a_rational(Fraction(0))]


def roots(draw: Random) -> Cluster:
    a, b, n = draw.randint(2, 9), draw.choice([2, 3, 5, 6, 7, 10, 11, 13]), draw.choice([10, 99, 10**4, 10**10])
    multiples = [
        Value(
            rational(c) * root(b),
            (
                rf"{c}\sqrt{{{b}}}",
                rf"\sqrt{{{b}}}\cdot {c}",
                rf"\sqrt{{{c * c * b}}}",
                rf"\frac{{{c * b}}}{{\sqrt{{{b}}}}}",
            ),
        )
        for c in (a, a + 1)
    ]
    sums = [
        Value(
            rational(a) + rational(sign) * root(b),
            (rf"{a}{'+-'[sign < 0]}\sqrt{{{b}}}", rf"{'+-'[sign < 0]}\sqrt{{{b}}}+{a}".removeprefix("+")),
        )
        for sign in (1, -1)
    ]
    denested = Value(
        rational(a) + root(b),
        (rf"\sqrt{{{a * a + b}+{2 * a}\sqrt{{{b}}}}}", rf"\sqrt{{{2 * a}\sqrt{{{b}}}+{a * a + b}}}"),
    )
    # √(c + √b) is no sum of square roots unless c² - b is a square.
    nested = [
        Value(("√", c, b), (rf"\sqrt{{{c}+\sqrt{{{b}}}}}", rf"\sqrt{{\sqrt{{{b}}}+{c}}}"))
        for c in (a + 4, a + 5)
        if isqrt(c * c - b) ** 2 != c * c - b
    ]
    cube_roots = [
        Value(("∛", c), (rf"\sqrt[3]{{{c}}}", f"{c}^{{1/3}}", rf"{c}^{{\frac{{1}}{{3}}}}")) for c in (b, b + 1)
    ]
    close = [Value(root(n * n + c), (rf"\sqrt{{{n * n + c}}}",)) for c in (0, 1, 2)]
    cubes = [value for value in cube_roots if value.key[1] not in (8, 27)]
    return [*multiples, *sums, denested, *nested, *cubes, *close, a_rational(Fraction(n)), a_rational(Fraction(a))]


def constants(draw: Random) -> Cluster:
    p, q, k = draw.randint(2, 9), draw.randint(2, 9), draw.randint(2, 5)
    multiples = [
        Value(
            rational(Fraction(a, b)) * letter(name),
            (
                rf"\frac{{{a}{tex}}}{{{b}}}",
                rf"\frac{{{a}}}{{{b}}}{tex}",
                rf"{a}{tex}/{b}",
                rf"{tex}\cdot \frac{{{a}}}{{{b}}}",
            ),
        )
        for name, tex in (("π", r"\pi"), ("e", "e"))
        for a, b in ((p, q + 1), (p + 1, q + 1))
    ]
    raised = [
        Value(rational(p) * letter(name, a), (f"{p}{tex}^{{{a}}}", rf"{tex}^{{{a}}}\cdot {p}"))
        for name, tex in (("π", r"\pi"), ("e", "e"))
        for a in (k, k + 1)
    ]
    sums = [
        Value(rational(p) + letter(name), (f"{p}+{tex}", rf"{tex}+{p}"))
        for name, tex in (("π", r"\pi"), ("i", "i"), ("e", r"\mathrm{e}"))
    ]
    inverse = Value(letter("e", -k), (f"e^{{-{k}}}", rf"\frac{{1}}{{e^{{{k}}}}}", f"1/e^{{{k}}}"))
    return [*multiples, *raised, *sums, inverse, a_rational(Fraction(p)), a_rational(Fraction(p, q))]


def complex_numbers(draw: Random) -> Cluster:
    a, b, c = draw.randint(1, 20), draw.randint(2, 20), draw.randint(2, 9)
    return [a_complex(*parts) for parts in ((a, b, 1), (a, -b, 1), (-a, b, 1), (b, a + 1, 1), (a, b, c), (a, b, c + 1))]


def a_complex(a: int, b: int, c: int) -> Value:
    key = rational(a, c) + rational(b, c) * letter("i")
    real, imaginary = str(a), f"{b}i"
    plus = "" if b < 0 else "+"
    sum_one, sum_two = f"{real}{plus}{imaginary}", f"{imaginary}{'' if a < 0 else '+'}{real}"
    if c == 1:
        return Value(key, (sum_one, sum_two, f"({sum_one})"))
    parts = rf"\frac{{{a}}}{{{c}}}{plus or '-'}\frac{{{abs(b)}}}{{{c}}}i"
    return Value(key, (rf"\frac{{{sum_one}}}{{{c}}}", rf"\frac{{{sum_two}}}{{{c}}}", f"({sum_one})/{c}", parts))


# As letters e and i are constants, and some others name functions, units or constants of sympy, or words of Python.
LETTERS = [*"abcdefghijklmnopqrstuvwxyz", *"CDEFGHIJKLMNOPQRSTUVWXYZ"]
LETTERS += [r"\alpha", r"\beta", r"\gamma", r"\lambda", r"\theta", r"\zeta"]
PRODUCTS = "abcpquvwxyz"  # written side by side; other letters would make units and words
SCIENTIFIC = re.compile(r"\d[eE][+-]?\d")  # 2e+3 is a number

Term = tuple[int, tuple[tuple[str, int], ...]]


def polynomials(draw: Random) -> Cluster:
    names = draw.sample(LETTERS, 3)
    if draw.random() < 0.5:
        names[:2] = draw.sample("cpuie", 2)
    x, y, z = names
    a, b, c, k = draw.randint(2, 9), draw.randint(1, 9), draw.choice([-7, -2, 3, 8]), draw.randint(1, 3)
    shapes: list[list[Term]] = [
        [(a, ((x, k),)), (c, ())],
        [(a, ((x, k),)), (b, ((y, 1),))],
        [(1, ((x, k), (y, 1))), (c, ((y, 2),)), (b, ())],
        [(1, ((x, 1),)), (1, ((y, 1),)), (1, ((z, 1),))],
    ]
    terms = draw.choice(shapes)
    letters = list(dict.fromkeys(name for _, factors in terms for name, _ in factors))
    other = draw.choice([name for name in ("c", "p", "u", *LETTERS) if name not in letters])
    (first, factors), rest = terms[0], terms[1:]
    cluster = [
        terms,
        renamed(terms, {letters[0]: other}),
        renamed(terms, {letters[-1]: other}),
        [(first + 1, factors), *rest],
        [(-first, factors), *rest],
        [(first, ((factors[0][0], factors[0][1] + 1), *factors[1:])), *rest],
    ]
    return [value for value in map(a_polynomial, cluster) if value.texts]


def renamed(terms: list[Term], names: dict[str, str]) -> list[Term]:
    return [(c, tuple((names.get(name, name), power) for name, power in factors)) for c, factors in terms]


def a_polynomial(terms: list[Term]) -> Value:
    key = rational(0)
    for coefficient, factors in terms:
        product = rational(coefficient)
        for name, power in factors:
            product *= letter(name, power)
        key += product
    texts = ["".join(a_term(*term) for term in order).removeprefix("+") for order in permutations(terms)]
    return Value(key, tuple(text for text in texts if not SCIENTIFIC.search(text)))


def a_term(coefficient: int, factors: tuple[tuple[str, int], ...]) -> str:
    """A term with its sign."""
    sign, size = "+-"[coefficient < 0], abs(coefficient)
    if not factors:
        return f"{sign}{size}"
    written = [name if power == 1 else f"{name}^{{{power}}}" for name, power in factors]
    joint = "" if all(name in PRODUCTS for name, _ in factors) else r"\cdot "
    return sign + ("" if size == 1 else str(size)) + joint.join(written)


def functions(draw: Random) -> Cluster:
    k, (a, b, c) = draw.randint(2, 9), draw.sample([2, 3, 5, 7, 11], 3)
    waves = [
        Value(
            (name, n),
            (
                rf"\{name}({n}x)",
                rf"\{name} {n}x",
                rf"\{name}{{({n}x)}}",
                rf"\operatorname{{{name}}}({n}x)",
                rf"\mathrm{{{name}}}({n}x)",
            ),
        )
        for name, n in (("sin", k), ("cos", k), ("tan", k), ("sin", k + 1))
    ]
    logarithms = [
        Value(
            ("log", base, n),
            (
                rf"\log_{{{base}}}{{{n}}}",
                rf"\log_{{{base}}}({n})",
                rf"\operatorname{{log}}_{{{base}}}({n})",
                rf"\mathrm{{log}}_{{{base}}}{{{n}}}",
            ),
        )
        for base, n in ((a, b), (b, a), (a, c))
    ]
    natural = [Value(("ln", n), (rf"\ln {n}", rf"\ln({n})", rf"\operatorname{{ln}}({n})")) for n in (a, b)]
    return [*waves, *logarithms, *natural]


def coincidences(draw: Random) -> Cluster:
    """Numbers that agree to many digits."""
    n = draw.choice([20, 30, 40])
    golden = (rational(1, 2) + rational(1, 2) * root(5)) ** n
    lucas = golden + (rational(1, 2) + rational(-1, 2) * root(5)) ** n  # the nearest integer
    ((_, nearest),) = lucas.terms
    silver = (rational(1) + root(2)) ** n
    return draw.choice(
        [
            [
                Value(golden, (rf"\left(\frac{{1+\sqrt{{5}}}}{{2}}\right)^{{{n}}}", rf"((1+\sqrt{{5}})/2)^{{{n}}}")),
                a_rational(nearest),
                Value(silver, (rf"(1+\sqrt{{2}})^{{{n}}}", rf"(\sqrt{{2}}+1)^{{{n}}}")),
            ],
            [Value(letter("π"), (r"\pi",)), a_rational(Fraction(355, 113)), a_rational(Fraction(22, 7))],
            [
                Value(letter("e", 6), ("e^{6}",)),
                Value(letter("π", 4) + letter("π", 5), (r"\pi^{4}+\pi^{5}", r"\pi^{5}+\pi^{4}")),
            ],
            [
                Value(root(10**20 + 1), (r"\sqrt{10^{20}+1}", r"\sqrt{1+10^{20}}")),
                a_rational(Fraction(10**10)),
                Value(rational(10**10), ("10^{10}",)),
            ],
            [Value(root(2), (r"\sqrt{2}",)), a_rational(Fraction(577, 408)), a_rational(Fraction(99, 70))],
        ]
    )


# Collections of values


def members(draw: Random) -> list[Cluster]:
    """Three clusters whose texts have no commas, and where the first values of all are different."""
    while True:
        kinds = draw.choices([rationals, roots, constants, polynomials], k=3)
        clusters = [[value for value in kind(draw) if "," not in value.texts[0]] for kind in kinds]
        keys = {value.key for cluster in clusters for value in cluster[:2]}
        if all(len(cluster) > 1 for cluster in clusters) and len(keys) == 6:
            return clusters


def tuples(draw: Random) -> Cluster:
    (a, other), (b, *_), (c, *_) = (cluster[:2] for cluster in members(draw))
    lists = ((a, b, c), (other, b, c), (b, a, c), (a, b), (a, b, c, other))
    return [Value(("()", *(v.key for v in vs)), in_brackets("({})", [vs])) for vs in lists]


def sets(draw: Random) -> Cluster:
    (a, other), (b, *_), (c, *_) = (cluster[:2] for cluster in members(draw))
    several = ((a, b, c), (other, b, c), (a, b), (a, b, c, other))
    return [Value(("{}", frozenset(v.key for v in vs)), in_brackets(r"\{{{}\}}", permutations(vs))) for vs in several]


def in_brackets(brackets: str, orders: Iterable[tuple[Value, ...]]) -> tuple[str, ...]:
    return tuple(brackets.format(", ".join(value.texts[0] for value in values)) for values in orders)


def intervals(draw: Random) -> Cluster:
    low, high = sorted(Fraction(draw.randint(-30, 30), draw.randint(1, 6)) for _ in "ab")
    ends = [(low, high + 1), (low, high + 2), (low - 1, high + 1)]
    return [an_interval(*pair, left, right) for pair in ends for left in "([" for right in ")]"]


def an_interval(low: Fraction, high: Fraction, left: str, right: str) -> Value:
    a, b = a_rational(low).texts[0], a_rational(high).texts[0]
    texts = (f"{left}{a}, {b}{right}", rf"x \in {left}{a}, {b}{right}")
    if left + right == "()":  # also a pair
        return Value(("()", rational(low), rational(high)), texts)
    relations = ["<" if bracket in "()" else r"\le" for bracket in (left, right)]
    return Value((left + right, low, high), (*texts, f"{a} {relations[0]} x {relations[1]} {b}"))


KINDS: list[Callable[[Random], Cluster]] = [
    rationals,
    finite_decimals,
    powers,
    factorials,
    large_and_tiny,
    roots,
    constants,
    complex_numbers,
    polynomials,
    functions,
    coincidences,
    tuples,
    sets,
    intervals,
]

# Typesetting that changes no value

MINUSES = "−‐‑－–"
WIDE_DIGITS = str.maketrans("0123456789", "０１２３４５６７８９")
WIDE_BRACKETS = str.maketrans("()[]", "（）［］")
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
BRACKET = re.compile(r"(?<!\\left)(?<!\\right)(?<!sqrt)(?:\\\{|\\\}|[()\[]|\](?!\{))")
TOKEN = re.compile(r"\\(?:operatorname|mathrm)\{[a-z]+\}|\\[A-Za-z]+|.")


def stretched(text: str) -> str:
    opening = ("(", "[", r"\{")
    return BRACKET.sub(lambda m: (r"\left" if m.group() in opening else r"\right") + m.group(), text)


def upright(text: str) -> str:
    return TOKEN.sub(lambda m: rf"\mathrm{{{m.group()}}}" if m.group() in ("e", "i") else m.group(), text)


def wide_brackets(text: str) -> str:
    return text if "sqrt[" in text or r"\left" in text else text.translate(WIDE_BRACKETS)


SURFACES: dict[str, Callable[[Random, str], str]] = {
    "minus": lambda draw, text: text.replace("-", draw.choice(MINUSES)),
    "fraction": lambda draw, text: text.replace(r"\frac", draw.choice([r"\dfrac", r"\tfrac", r"\cfrac"])),
    "times": lambda draw, text: text.replace(r"\cdot", draw.choice([r"\times", "·", "×", "*"])),
    "left and right": lambda draw, text: stretched(text),
    "wide brackets": lambda draw, text: wide_brackets(text),
    "wide digits": lambda draw, text: text.translate(WIDE_DIGITS),
    "superscripts": lambda draw, text: re.sub(r"\^\{(-?[0-9]+)\}", lambda m: m.group(1).translate(SUPERSCRIPTS), text),
    "bare exponent": lambda draw, text: re.sub(r"\^\{([0-9])\}", r"^\1", text),
    "root sign": lambda draw, text: re.sub(r"\\sqrt\{([0-9]+)\}", r"√\1", text),
    "bare root": lambda draw, text: re.sub(r"\\sqrt\{([0-9])\}", r"\\sqrt\1", text),
    "bare fraction": lambda draw, text: re.sub(r"\\frac\{([0-9])\}\{([0-9])\}", r"\\frac\1\2", text),
    "spaces": lambda draw, text: re.sub(r"(?<=[\w}])([+-])(?=[\\\w])", draw.choice([r" \1 ", r"\\,\1\\,"]), text),
    "pi": lambda draw, text: text.replace(r"\pi", draw.choice(["π", r"{\pi}"])),
    "upright": lambda draw, text: upright(text),
    "display": lambda draw, text: rf"\displaystyle {text}",
}
WRAPS = ("{}", "{}", "${}$", r"\({}\)", r"\[{}\]", "$${}$$", " {} ", "{}.", "{{{}}}")


def typeset(draw: Random, text: str) -> str:
    """The text with two changes of its surface, and perhaps in dollar signs or brackets of a formula."""
    for surface in draw.sample(list(SURFACES.values()), 2):
        text = surface(draw, text)
    return draw.choice(WRAPS).format(text)


def clusters(kind: Callable[[Random], Cluster]) -> list[Cluster]:
    draw = Random(kind.__name__)
    return [kind(draw) for _ in range(CLUSTERS_PER_KIND)]


def different(draw: Random, source: Callable[[], tuple[Value, Value]], count: int) -> Iterator[tuple[str, str]]:
    """Texts of two different values."""
    while count:
        one, two = source()
        if one.key != two.key:
            count -= 1
            yield draw.choice(one.texts), draw.choice(WRAPS).format(draw.choice(two.texts))


@pytest.mark.parametrize("kind", KINDS)
def test_different_values_of_a_kind_are_not_equal(kind: Callable[[Random], Cluster]) -> None:
    draw, groups = Random(1), clusters(kind)

    def two_values() -> tuple[Value, Value]:
        one = draw.choice(groups)
        return draw.choice(one), draw.choice(one if draw.random() < 0.7 else draw.choice(groups))

    pairs = different(draw, two_values, PAIRS_PER_KIND)
    assert [pair for pair in pairs if equal(*pair)] == []


def test_values_of_different_kinds_are_not_equal() -> None:
    draw, kinds = Random(2), [[value for group in clusters(kind) for value in group] for kind in KINDS]
    pairs = different(draw, lambda: tuple(map(draw.choice, draw.sample(kinds, 2))), PAIRS_ACROSS)
    assert [pair for pair in pairs if equal(*pair)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_equals_itself_typeset_otherwise(kind: Callable[[Random], Cluster]) -> None:
    draw, pairs = Random(3), []
    for group in clusters(kind):
        for value in draw.sample(group, min(len(group), COPIES_PER_CLUSTER)):
            gold = draw.choice(value.texts)
            pairs.append((gold, typeset(draw, draw.choice([*value.texts, *value.decimals]))))
    assert [pair for pair in pairs if not equal(*pair)] == []


@pytest.mark.parametrize(("name", "other"), [*pairwise([*LETTERS, "x"])])
def test_every_letter_is_one_of_its_own(name: str, other: str) -> None:
    gold, reordered, changed = (f"2{name} + y^{{2}}", f"y^{{2}} + 2{name}", f"y^{{2}} + 2{other}")
    assert equal(gold, reordered)
    assert not equal(gold, changed)


@pytest.mark.parametrize("surface", SURFACES)
def test_each_surface_keeps_the_value(surface: str) -> None:
    draw = Random(surface)
    values = [draw.choice(group) for kind in KINDS for group in clusters(kind)[:2]]
    pairs = [(value.texts[0], SURFACES[surface](draw, value.texts[0])) for value in values]
    assert [pair for pair in pairs if pair[0] != pair[1] and not equal(*pair)] == []
