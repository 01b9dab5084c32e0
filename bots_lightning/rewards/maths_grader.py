r"""Whether a completion gives the right answer. Runs in the workers: sympy may take for ever, and the pool kills."""

from __future__ import annotations

import re

from bots_lightning.rewards.maths_answers import Extraction, final_answer
from bots_lightning.rewards.maths_forms import balanced, form, same_form, split
from bots_lightning.rewards.maths_typography import compact, number, same_number, tidy
from bots_lightning.rewards.maths_values import SET, same_numbers, same_relation, same_value, worked_out

EQUALS = re.compile(r"(?<![\\<>!=])=(?!=)")
WORDS = re.compile(r"[A-Za-z]{2,}")
CHOICE = re.compile(r"(?:(?i:option|choice)\s+)?\(?([A-Z])\)?")
CHOSEN = re.compile(r"(?<![A-Za-z])[A-HJ-Z](?![A-Za-z'’])")
DENIED = re.compile(
    r"\b(?:not|never|cannot|or|but|neither|nor|except|besides|other|than|different|unlike|wrong|incorrect)\b|n't\b|\\neg|¬",
    re.IGNORECASE,
)
IN_BASE = re.compile(r"(-?[\dA-Z]+)_\{?(?:\\text\{)?(\w+)\}*")
APPROXIMATELY = re.compile(r"\s*\\approx(?![A-Za-z])\s*")
LETTER = re.compile(r"\\?[A-Za-z]+(?:_\w)?")
LONGEST_ANSWER = 1000
# So many letters may be a product of letters, more are a word.
LONGEST_PRODUCT = 3


def grade(item: tuple[str, str, Extraction]) -> float:
    """1 if a completion's final answer equals the gold one, 0 if not or if it has none.

    Args:
        item: the completion, the gold answer, and how the completion's is found (see `final_answer`).
    """
    completion, gold, extraction = item
    prediction = final_answer(completion, extraction)
    return float(prediction is not None and len(prediction) <= LONGEST_ANSWER and equal(gold, prediction))


def equal(gold: str, prediction: str) -> bool:
    """Whether a prediction means the same as the gold answer, and leaves no more to compute than that."""
    gold, prediction = _unbraced(tidy(gold)), _unbraced(tidy(prediction))
    if len(sides := APPROXIMATELY.split(prediction)) == 2 and not APPROXIMATELY.search(gold):
        # one of them, so that nobody can give two answers
        prediction = sides["." in gold or bool(LETTER.fullmatch(sides[0]))]
    if not prediction or not balanced(prediction):
        return False
    if compact(gold) == compact(prediction):
        return True
    if _is_text(gold) and (_same_text(gold, prediction) or len(gold) > LONGEST_PRODUCT):
        return _same_text(gold, prediction)
    if (typed := number(gold)) and (other := number(prediction)):
        return same_number(typed, other) and (not other.division or typed.division)
    bases = IN_BASE.fullmatch(compact(gold)), IN_BASE.fullmatch(compact(prediction))
    if bases[0] and bases[1]:
        return bases[0].groups() == bases[1].groups()
    if SET.search(gold) or SET.search(prediction):
        same = same_numbers(gold, prediction)
        return same_relation(gold, prediction) if same is None else same
    return _same_forms(gold, prediction)


def _unbraced(text: str) -> str:
    """An answer without braces around the whole, other than those of a set."""
    inner = text[1:-1].strip()
    single = text[:1] == "{" and text[-1:] == "}" and balanced(inner) and (number(inner) or len(split(inner)) == 1)
    return _unbraced(tidy(inner)) if single else text


def _same_forms(gold: str, prediction: str) -> bool:
    gold_form, prediction_form = form(gold), form(prediction)
    if gold_form.brackets and prediction_form.brackets:
        return same_form(gold_form, prediction_form, equal)
    if gold_form.brackets or prediction_form.brackets:
        return False
    return _same_scalar(gold, prediction, *gold_form.parts[0], *prediction_form.parts[0])


def _same_scalar(
    gold: str, prediction: str, gold_name: str | None, gold_value: str, name: str | None, value: str
) -> bool:
    """Whether two single answers agree; a name may be left out, but not be another."""
    if None in (gold_name, name) or compact(gold_name or "") == compact(name or ""):
        if not EQUALS.search(gold_value):  # 9 \cdot 2 = 18
            value = EQUALS.split(value)[-1]
        if _same_value(tidy(gold_value), tidy(value)):
            return True
    return bool(EQUALS.search(gold) and EQUALS.search(prediction)) and same_relation(gold, prediction)


def _same_value(gold: str, prediction: str) -> bool:
    if compact(gold) == compact(prediction):
        return True
    if not worked_out(prediction, rational=number(gold) is not None) and worked_out(gold):
        return False
    if (typed := number(gold.replace(":", "/"))) and (other := number(prediction)):  # 3:4 is 3/4
        return same_number(typed, other)
    return same_value(gold, prediction)


def _is_text(text: str) -> bool:
    """Whether an answer is words, or the letter of a choice, and no mathematics."""
    bare = text.replace(r"\text", "")
    return not re.search(r"[\d=<>^_\\]", bare) and bool(WORDS.search(bare) or CHOICE.fullmatch(bare.strip("{} ")))


def _same_text(gold: str, prediction: str) -> bool:
    """Whether words agree, capital letters and punctuation aside; "(B) 12" chooses B, and "A or B" nothing."""
    gold, prediction = _words(gold), _words(prediction)
    if choice := CHOICE.fullmatch(gold):
        if DENIED.search(prediction):
            return False
        return prediction.strip("().").upper() == choice.group(1) or CHOSEN.findall(prediction) == [choice.group(1)]
    return gold.casefold().strip("().'\" ") == prediction.casefold().strip("().'\" ")


def _words(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\\text\s*|[{}]", " ", text)).strip()
