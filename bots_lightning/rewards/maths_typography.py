r"""The same answer in one way of typing: without delimiters, spacing commands, currency, units and the like.

Units are not compared, as is usual in the field: "5 \text{ cm}" is "5". Multipliers ("5 million") and a.m./p.m. stay.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup "}
    | {
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "∈": r"\in ",
        "θ": r"\theta ",
        "≈": r"\approx ",
        "²": "^2",
        "³": "^3",
    }
    | {"°": r"^\circ ", "€": "", "£": "", "¥": "", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "，": ",", "`": ""}
    | {"’": "'", "\0": ""}
)
POWERS = {"thousand": 3, "million": 6, "billion": 9}
# In this order.
REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\*\*|\\(?:displaystyle|textstyle|limits)(?![A-Za-z])", ""),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\s*\.?", ""),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le"),
        (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"^\\approx(?![A-Za-z])", ""),
        (r"(?<=\d)\s*(?:\\text\s*\{\s*)?[aA]\.?\s?[mM]\b\.?(?:\s*\})?", " am"),
        (r"(?<=\d)\s*(?:\\text\s*\{\s*)?[pP]\.?\s?[mM]\b\.?(?:\s*\})?", " pm"),
        (r"\s*\{\s*,\s*\}\s*", ","),
        (r",\s*\\!\s*", ","),
        (r"\\!", ""),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|~", " "),
        (r"\\(?:textbf|textit|textrm|textup|mathrm|mathbf|mathit|mathsf|mbox|operatorname)\s*\{", r"\\text{"),
        (r"\{\s*\\(?:rm|bf|it)\s+", r"\\text{"),
        (r"\\text\s*\{\s*([-+]?\s*[\d.][^{}]*)\}", r"\1"),
        (
            r"(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degrees?(?![A-Za-z]))\s*(?:\\text\{\s*[CF]\s*\}|[CF](?![A-Za-z]))?",
            " ",
        ),
        (r"^\\text\s*\{[^{}]*:\s*\}", ""),
        *(
            (rf"(?<=\d)\s*(?:\\text\s*\{{\s*{word}\s*\}}|{word}\b)", rf"\\times 10^{power}")
            for word, power in POWERS.items()
        ),
        (r"\\?\$|\\(?:pounds|euro)(?![A-Za-z])", ""),
        (r"\\%", "%"),
        (r"\s*\\text\s*\{\s*(?:percent|pct|%)\s*\}|\s+(?:percent|pct)\b", "%"),
        (r"\s+", " "),
    )
]
WRAPPERS = re.compile(r"\s*(?:\$\$?(.*?)\$\$?|\\\((.*?)\\\)|\\\[(.*?)\\\])[\s.,;]*", re.DOTALL)
NO_UNIT = r"(?!\s*(?:and|or|million|billion|trillion|thousand|hundred|dozen|to|[ap]m)\b)"
UNIT_TEXT = re.compile(rf"(?<=\S)\s*\\text\s*\{{{NO_UNIT}[^{{}}\d]*\}}\s*(?:\^\s*\{{?\s*\d\s*\}}?)?$")
UNIT_FRACTION = re.compile(r"(?<=\S)\s*\\frac\s*\{\s*\\text\{[^{}]*\}\s*\}\s*\{\s*\\text\{[^{}]*\}\s*\}$")
SHORT = "km|cm|mm|kg|mg|ml|mL|mph|kph|ft|in|lbs?|oz|hrs?|mins?|secs?|days?|hours?|minutes?|seconds?|degrees?"
COMMON = (
    "(?:(?:square|cubic|sq) )?(?:units?|dollars?|cents?|degrees?|radians?|feet|inches|met(?:er|re)s?|cm|km|mm|hours?)"
)
EXPONENT = r"\s*(?:\^\s*\{?\s*\d\s*\}?)?$"
UNIT_WORDS = re.compile(
    # "18 dollars a day", "5 m"
    rf"(?<=[\d}})%])\s+{NO_UNIT}(?:[A-Za-z]{{2,}}|[mgshLl](?![A-Za-z]))(?:[\s./]+{NO_UNIT}[A-Za-z]+)*{EXPONENT}"
    # "5kg"; "3\pi units", "2 + 3i units"
    rf"|(?<=[\d}})])(?:{SHORT}){EXPONENT}|(?:(?<=\\pi)|(?<=[^A-Za-z][A-Za-z]))\s+{COMMON}{EXPONENT}"
)

DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d{1,3}(?: \d{3})+|\d+\.?\d*|\.\d+)"
BRACED = rf"(?:\{{\s*(-?{DIGITS})\s*\}}|(\d))"
DECIMAL = re.compile(
    rf"([+-]?)\s*({DIGITS})(?:[eE]([+-]?\d{{1,2}})|\s*\\(?:times|cdot)\s*10\^(?:(\d)|\{{(-?\d{{1,2}})\}}))?"
)
RATIO = re.compile(rf"([+-]?)\s*(?:(\d+)\s+)?({DIGITS})\s*/\s*({DIGITS})")
FRACTION = re.compile(rf"([+-]?)\s*(?:(\d+)\s*)?\\frac\s*{BRACED}\s*{BRACED}")
LONGEST_NUMBER = 100


class Number(NamedTuple):
    """A rational number as it was typed.

    Attributes:
        value: exact; of "50%", 50.
        percent: whether a percent sign follows.
    """

    value: Fraction
    percent: bool


def tidy(answer: str) -> str:
    """An answer without what does not change its meaning. Applied twice it does no more than once."""
    text = answer.translate(CHARACTERS).strip()
    while (wrapped := WRAPPERS.fullmatch(text)) and (content := next(filter(None, wrapped.groups()), "")) != text:
        text = content.strip()
    while (shorter := _rewritten(text)) != text:
        text = shorter
    return text


def _rewritten(text: str) -> str:
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    text = re.sub(r"(?<![\\.])[\s.,;:]+$", "", text.strip())
    return UNIT_WORDS.sub("", UNIT_TEXT.sub("", UNIT_FRACTION.sub("", text))).strip()


def compact(text: str) -> str:
    r"""A tidied answer without spaces that mean nothing; one letter in braces goes without them."""
    text = re.sub(r"(?<=\d),\s+(?=\d{3}(?!\d))", ";", text)  # 1, 234 is not 1,234
    return re.sub(r"([\^_])\{(\w)\}", r"\1\2", re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text))


def number(text: str) -> Number | None:
    r"""The number that a tidied answer is: `-1,234.5`, `3/4`, `\frac34`, `1\frac{1}{2}`, `2\times10^{-3}`, `50%`."""
    if len(text) > LONGEST_NUMBER:
        return None
    percent = text.endswith("%")
    text = text.removesuffix("%").strip()
    if match := DECIMAL.fullmatch(text):
        exponent = int(match.group(3) or match.group(4) or match.group(5) or 0)
        value = _fraction(match.group(2)) * Fraction(10) ** exponent
    elif match := RATIO.fullmatch(text) or FRACTION.fullmatch(text):
        above, below = (_fraction(part) for part in match.groups()[2:] if part)
        if below == 0:
            return None
        value = int(match.group(2) or 0) + above / below
    else:
        return None
    return Number(-value if match.group(1) == "-" else value, percent)


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))


def same_number(gold: Number, prediction: Number) -> bool:
    r"""Whether two numbers agree, exactly or to the six digits of a decimal.

    0.333333 is 1/3, 0.333 is not. A percent sign may be left out: 50% is 50, and 50% is 0.5, but 50 is not 0.5.
    """
    pairs = {(gold.value, prediction.value)}
    if gold.percent != prediction.percent:
        pairs.add((gold.value / 100, prediction.value) if gold.percent else (gold.value, prediction.value / 100))
    return any(abs(a - b) <= Fraction(1, 10**6) * min(Fraction(1), abs(a)) for a, b in pairs)
