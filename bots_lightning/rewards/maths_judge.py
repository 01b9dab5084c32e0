"""Whether a completion gives the right answer. Runs in the workers; needs math-verify, and the pool's time limit."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from bots_lightning.rewards.maths_answers import final_answer
from bots_lightning.rewards.maths_forms import balanced, form, same_form
from bots_lightning.rewards.maths_typography import compact, number, same_number, tidy

# The time limits of math-verify are off, of which it warns: the pool kills instead.
logging.getLogger("math_verify").setLevel(logging.ERROR)

RELATION = re.compile(r"\\(?:le|ge|ne|lt|gt)(?![A-Za-z])|[<>]")
EQUALS = re.compile(r"(?<![\\<>!=])=(?!=)")
WORDS = re.compile(r"[A-Za-z]{2,}")
PROSE = re.compile(r"[A-Za-z]{4,}")
COMMANDS = re.compile(r"\\(?!text(?![A-Za-z]))[A-Za-z]+")
CHOICE = re.compile(r"(?:(?i:option|choice)\s+)?\(?([A-Z])\)?")
CHOICE_AND_TEXT = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:])\s*.*", re.DOTALL)
# math-verify leaves the base out of account.
IN_BASE = re.compile(r"(-?[\dA-Z]+)_\{?(?:\\text\{)?(\w+)\}*")
APPROXIMATELY = re.compile(r"\s*\\approx(?![A-Za-z])\s*")
NUMERALS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]
LONGEST_ANSWER = 1000
LATEX = (LatexExtractionConfig(),)


def judge(item: tuple[str, str, bool]) -> float:
    """1 if a completion's final answer equals the gold one, 0 if not or if it has none.

    Args:
        item: the completion, the gold answer, and whether only a box counts.
    """
    completion, gold, require_boxed = item
    prediction = final_answer(completion, require_boxed)
    return float(prediction is not None and len(prediction) <= LONGEST_ANSWER and equal(gold, prediction))


def equal(gold: str, prediction: str) -> bool:
    """Whether two answers mean the same."""
    gold, prediction = _in_digits(tidy(gold)), _in_digits(tidy(prediction))
    if len(sides := APPROXIMATELY.split(prediction)) == 2 and not APPROXIMATELY.search(gold):
        prediction = sides["." in gold]  # one of them, so that nobody can give two answers
    if not prediction or not balanced(prediction):
        return False
    if compact(gold) == compact(prediction):
        return True
    if _is_text(gold):
        return _same_text(gold, prediction)
    numbers = number(gold), number(prediction)
    if numbers[0] and numbers[1]:
        return same_number(numbers[0], numbers[1])
    bases = IN_BASE.fullmatch(compact(gold)), IN_BASE.fullmatch(compact(prediction))
    if bases[0] and bases[1]:
        return bases[0].groups() == bases[1].groups()
    gold_form, prediction_form = form(gold), form(prediction)
    if gold_form.brackets and prediction_form.brackets:
        return same_form(gold_form, prediction_form, equal)
    if gold_form.brackets or prediction_form.brackets:
        relations = bool(RELATION.search(gold)) != bool(RELATION.search(prediction))
        return (relations or "matrix" in gold + prediction) and _same_mathematics(gold, prediction)
    return _same_scalar(gold, prediction, *gold_form.parts[0], *prediction_form.parts[0])


def _in_digits(text: str) -> str:
    word = _words(text).casefold()
    return str(NUMERALS.index(word)) if word in NUMERALS else text


def _same_scalar(
    gold: str, prediction: str, gold_name: str | None, gold_value: str, name: str | None, value: str
) -> bool:
    """Whether two single answers agree; a name may be left out, but not be another."""
    if None in (gold_name, name) or compact(gold_name or "") == compact(name or ""):
        if not EQUALS.search(gold_value):  # 9 \cdot 2 = 18
            value = EQUALS.split(value)[-1]
        if _same_value(tidy(gold_value), tidy(value)):
            return True
        if name is None and gold_name is not None and EQUALS.search(prediction) is None:
            return False
    return bool(EQUALS.search(gold) and EQUALS.search(prediction)) and _same_mathematics(gold, prediction)


def _same_value(gold: str, value: str) -> bool:
    if compact(gold) == compact(value):
        return True
    numbers = number(gold), number(value)
    if numbers[0] and numbers[1]:
        return same_number(numbers[0], numbers[1])
    return _same_mathematics(gold, value)


def _is_text(text: str) -> bool:
    """Whether an answer is words, or the letter of a choice, and no mathematics."""
    plain = text.replace(r"\text", "")
    return not re.search(r"[\d=<>^_\\]", plain) and bool(WORDS.search(plain) or CHOICE.fullmatch(plain.strip("{} ")))


def _same_text(gold: str, prediction: str) -> bool:
    """Whether words agree, capital letters and punctuation aside; "(B) 12" chooses B."""
    gold, prediction = _words(gold), _words(prediction)
    if choice := CHOICE.fullmatch(gold):
        chosen = CHOICE.fullmatch(prediction) or CHOICE_AND_TEXT.fullmatch(prediction)
        return chosen is not None and choice.group(1) in chosen.groups()
    return gold.casefold().strip("().'\" ") == prediction.casefold().strip("().'\" ")


def _words(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\\text\s*|[{}]", " ", text)).strip()


def _same_mathematics(gold: str, prediction: str) -> bool:
    """What math-verify says; it may take for ever.

    Words are no mathematics: as products of variables they could equal anything.
    """
    if PROSE.search(COMMANDS.sub(" ", prediction)) and not PROSE.search(COMMANDS.sub(" ", gold)):
        return False
    parsed = _parsed(gold)
    if not parsed:
        return False
    return verify(
        list(parsed),
        list(_parsed(prediction)),
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=False,
    )


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[Any, ...]:
    """A tidied answer as sympy has it; nothing if it is no formula."""
    return tuple(parse(f"${text}$", LATEX, fallback_mode="no_fallback", parsing_timeout=None))
