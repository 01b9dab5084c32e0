r"""The same answer in one way of typing: without delimiters, spacing commands, currency, units and the like.

Units are not compared, as is usual in the field: "5 \text{ cm}" is "5". Multipliers ("5 million") and a.m./p.m. stay.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Any, NamedTuple

VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
RAISED, LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉₊₋"
LEVEL = str.maketrans(RAISED + LOWERED, "0123456789+-n0123456789+-")
SIGNS = str.maketrans(
    dict.fromkeys("−‐‑‒–﹣－", "-")
    | {sign: re.sub(r"(\d+)⁄(\d+)", r"\\frac{\1}{\2}", unicodedata.normalize("NFKC", sign)) for sign in VULGAR}
    | {"’": "'", "⁄": "/", "∕": "/", "\0": ""}
)
SYMBOLS = str.maketrans(
    {"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∈": r"\in ", "θ": r"\theta ", "≈": r"\approx "}
    | {"∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "°": r"^\circ ", "€": "", "£": "", "¥": "", "`": ""}
)
FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|max|min|gcd|lcm|det"
POWERS = {"thousand": 3, "million": 6, "billion": 9}
FONT = r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname)\*?\s*"
# In this order, until nothing changes.
REWRITES: list[tuple[re.Pattern[str], Any]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\*\*|\\(?:displaystyle|textstyle|limits)(?![A-Za-z])", ""),
        (r"^\\text\s*\{([^{}]*)\}$", r"\1"),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\s*\.?", ""),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le"),
        (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge"),
        (r"\\neq(?![A-Za-z])", r"\\ne"),
        (r"\\varnothing(?![A-Za-z])|^\\\{\s*\\\}$", r"\\emptyset"),
        (r"\\(?:Reals|R)(?![A-Za-z])", r"\\mathbb{R}"),
        (r"^\\approx(?![A-Za-z])", ""),
        (r"√\s*\(([^()]*)\)|(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1\2}"),
        (r"√\s*(\d+(?:\.\d+)?|[A-Za-z])", r"\\sqrt{\1}"),
        (r"(?<=\d)\s*(?:\\text\s*\{\s*)?([aApP])\.?\s?[mM]\b\.?(?:\s*\})?", lambda match: f" {match[1].lower()}m"),
        (r"\s*\{\s*([,:])\s*\}\s*", r"\1"),
        (r",\s*\\!\s*", ","),
        (r"\\!", ""),
        (r"(?<=\d)\\[,;:](?=\d{3}(?!\d))", ","),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|~", " "),
        (rf"{FONT}\{{\s*({FUNCTIONS})\s*\}}|(?<![\\A-Za-z])({FUNCTIONS})(?=[\s(^])", r"\\\1\2 "),
        (rf"{FONT}\{{\s*([ei])\s*\}}", r"\1 "),
        (rf"{FONT}\{{", r"\\text{"),
        (r"\{\s*\\(?:rm|bf|it)\s+", r"\\text{"),
        (r"\\text\s*\{\s*([-+]?\s*[\d.][^{}]*)\}", r"\1"),
        (r"^\\text\s*\{[^{}]*(?::|\bis)\s*\}|^(?i:the\s+)?(?i:final\s+)?(?i:answer)(?i:\s+is)?\s*:?\s*(?=\S)", ""),
        *(
            (rf"(?<=\d)\s*(?:\\text\s*\{{\s*{word}\s*\}}|{word}\b)", rf"\\times 10^{power}")
            for word, power in POWERS.items()
        ),
        (r"(?<=\d)\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*(?=\d)", ":"),
        (r"\\?\$|\\(?:pounds|euro)(?![A-Za-z])", ""),
        (r"\\%", "%"),
        (r"\s*\\text\s*\{\s*(?:percent|pct|%)\s*\}|\s+(?:percent|pct)\b", "%"),
        (r"(?<![\\A-Za-z])pi\b", r"\\pi"),
        (r"(?<![\\A-Za-z])infinity\b", r"\\infty"),
        (r"^(?:\\text\s*\{)?(?i:all real numbers|all reals|the real numbers)\}?$", r"\\mathbb{R}"),
        (
            r"^(?:\\text\s*\{)?(?i:(?:there (?:is|are) )?no (?:real )?solutions?|none|(?:the )?empty set)\}?$",
            r"\\emptyset",
        ),
        (r"\s+", " "),
    )
]
DEGREES = re.compile(
    r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degrees?(?![A-Za-z]))\s*(?:\\text\{\s*[CF]\s*\}|[CF](?![A-Za-z]))?"
)
TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
WRAPPERS = re.compile(r"\s*(?:\$\$?(.*?)\$\$?|\\\((.*?)\\\)|\\\[(.*?)\\\])[\s.,;]*", re.DOTALL)
NO_UNIT = r"(?!\s*(?:and|or|million|billion|trillion|thousand|hundred|dozen|to|is|are|was|equals|[ap]m)\b)"
SUPER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
IN_TEXT = rf"\\text\s*\{{{NO_UNIT}\s*(?:[A-Za-z/°\\](?:[^{{}}]|\{{[^{{}}]*\}})*)?\}}"
UNITS = re.compile(
    rf"(?<=\S)\s*(?:{IN_TEXT}{SUPER}|\\frac\s*\{{\s*{IN_TEXT}\s*\}}\s*\{{\s*{IN_TEXT}{SUPER}\s*\}}|(?<=\d)\s*\\Omega)$"
)
SHORT = "km|cm|mm|kg|mg|ml|mL|mph|kph|ft|in|lbs?|oz|hrs?|mins?|secs?|days?|hours?|minutes?|seconds?|degrees?"
COMMON = (
    "(?:(?:square|cubic|sq) )?(?:units?|dollars?|cents?|degrees?|radians?|feet|inches|met(?:er|re)s?|cm|km|mm|hours?)"
)
UNIT_WORDS = re.compile(
    # "18 dollars a day", "5 m", "10 m s^{-1}"
    rf"(?<=[\d}})%])\s+{NO_UNIT}(?:[A-Za-z]{{2,}}|[mgshLlN](?![A-Za-z])){SUPER}(?:[\s./]+{NO_UNIT}[A-Za-z]+{SUPER})*$"
    # "5kg"; "3\pi units", "2 + 3i units"
    rf"|(?<=[\d}})])(?:{SHORT}){SUPER}$|(?:(?<=\\pi)|(?<=[^A-Za-z][A-Za-z]))\s+{COMMON}{SUPER}$"
)
BELOW_TWENTY = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMERALS = {word: 10 * i for i, word in enumerate(TENS)} | {word: i for i, word in enumerate(BELOW_TWENTY)}

DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d{1,3}(?: \d{3})+|\d+\.?\d*|\.\d+)"
BRACED = rf"(?:\{{\s*(-?{DIGITS})\s*\}}|(\d))"
DECIMAL = re.compile(
    rf"([+-]?)\s*({DIGITS})(?:[eE]([+-]?\d{{1,2}})|\s*\\(?:times|cdot)\s*10\^(?:(\d)|\{{(-?\d{{1,2}})\}}))?"
)
RECURRING = re.compile(r"([+-]?)\s*(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))|\((\d+)\))")
RATIO = re.compile(rf"([+-]?)\s*(?:(\d+)\s+)?({DIGITS})\s*/\s*({DIGITS})")
FRACTION = re.compile(rf"([+-]?)\s*(?:(\d+)\s*)?\\frac\s*{BRACED}\s*{BRACED}")
NUMERAL = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
LONGEST_NUMBER = 100


class Number(NamedTuple):
    """A rational number as it was typed.

    Attributes:
        value: exact; of "50%", 50.
        percent: whether a percent sign follows.
        decimal: whether it was typed with a decimal point, and so perhaps rounded.
        division: whether it is a division that comes out even, and so still to be done: 12/3.
    """

    value: Fraction
    percent: bool = False
    decimal: bool = False
    division: bool = False


def plain(text: str) -> str:
    r"""A text with ASCII digits, brackets and minus signs for their many relatives; ½ is \frac{1}{2}, x² is x^{2}."""
    if text.isascii():
        return text
    text = re.sub(f"[{RAISED}]+", lambda run: f"^{{{run.group().translate(LEVEL)}}}", text.translate(SIGNS))
    text = re.sub(f"[{LOWERED}]+", lambda run: f"_{{{run.group().translate(LEVEL)}}}", text)
    return re.sub(r"[^\W\D]", lambda digit: str(int(digit.group())), unicodedata.normalize("NFKC", text))


def tidy(answer: str) -> str:
    """An answer without what does not change its meaning. Applied twice it does no more than once."""
    text = plain(answer).translate(SYMBOLS).strip()
    if NUMERAL.fullmatch(text):
        return text
    while (wrapped := WRAPPERS.fullmatch(text)) and (content := next(filter(None, wrapped.groups()), "")) != text:
        text = content.strip()
    while (shorter := _rewritten(text)) != text:
        text = shorter
    return _in_digits(text)


def _rewritten(text: str) -> str:
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    text = text if TRIGONOMETRY.search(text) else DEGREES.sub(" ", text)
    text = re.sub(r"(?<![\\.])[\s.,;:]+$", "", text.strip())
    return UNIT_WORDS.sub("", UNITS.sub("", text)).strip()


def _in_digits(text: str) -> str:
    """A number in words ("twenty-one", "two hundred and five") in digits."""
    total, current = 0, 0
    for word in re.split(r"[\s-]+(?:and\s+)?", text.casefold()):
        if word and word in NUMERALS:
            current += NUMERALS[word]
        elif word == "hundred":
            current = (current or 1) * 100
        elif word in POWERS:
            total, current = total + (current or 1) * 10 ** POWERS[word], 0
        else:
            return text
    return str(total + current)


def compact(text: str) -> str:
    r"""A tidied answer without spaces that mean nothing; one letter in braces goes without them."""
    text = re.sub(r"(?<=\d),\s+(?=\d{3}(?!\d))", ";", text)  # 1, 234 is not 1,234
    return re.sub(r"([\^_])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text))


def number(text: str) -> Number | None:
    r"""The number that a tidied answer is: `-1,234.5`, `3/4`, `\frac34`, `1\frac{1}{2}`, `2\times10^{-3}`, `50%`.

    Also `0.1\overline{6}`.
    """
    if len(text) > LONGEST_NUMBER:
        return None
    percent = text.endswith("%")
    text = text.removesuffix("%").strip()
    decimal = division = False
    if match := DECIMAL.fullmatch(text):
        exponent = int(match.group(3) or match.group(4) or match.group(5) or 0)
        value, decimal = _fraction(match.group(2)) * Fraction(10) ** exponent, "." in text
    elif match := RECURRING.fullmatch(text):
        whole, fixed, repeated = match.group(2), match.group(3), next(filter(None, match.groups()[3:]))
        value = Fraction(int((whole + fixed) or 0)) + Fraction(int(repeated), 10 ** len(repeated) - 1)
        value /= 10 ** len(fixed)
    elif match := RATIO.fullmatch(text) or FRACTION.fullmatch(text):
        above, below = (_fraction(part) for part in match.groups()[2:] if part)
        if below == 0 or (match.group(2) and above >= below):  # 1 3/2 is no mixed number
            return None
        value = int(match.group(2) or 0) + above / below
        division = value.denominator == 1 != below or "." in text
    else:
        return None
    return Number(-value if match.group(1) == "-" else value, percent, decimal, division)


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))


def same_number(gold: Number, prediction: Number) -> bool:
    r"""Whether two numbers agree, exactly, or to six digits if one is a decimal.

    0.333333 is 1/3, 0.333 is not. A percent sign may be left out: 50% is 50, and 50% is 0.5, but 50 is not 0.5.
    """
    pairs = {(gold.value, prediction.value)}
    if gold.percent != prediction.percent:
        pairs.add((gold.value / 100, prediction.value) if gold.percent else (gold.value, prediction.value / 100))
    tolerance = Fraction(1, 10**6) if gold.decimal or prediction.decimal else Fraction(0)
    return any(abs(a - b) <= tolerance * min(Fraction(1), abs(a)) for a, b in pairs)
