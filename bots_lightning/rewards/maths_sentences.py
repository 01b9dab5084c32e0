"""What the sentences of a text claim: the grammar of `maths_answers` below its marks."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Characters: of a completion that is a value and nothing else, and of the end in which the last value is looked for.
BARE, TAIL = 60, 1500
# A formula is one character of Unicode's private use area while sentences are read.
FIRST, FORMULAS = 0xE000, 6000
F = rf"[{chr(FIRST)}-{chr(FIRST + FORMULAS)}]"

EMPHASIS = re.compile(r"\*\*|__|`")
# "Answer: Janet eats three eggs and …" opens a solution.
OPENS_A_SOLUTION = re.compile(rf"[:=]\s*[^{chr(FIRST)}-{chr(FIRST + FORMULAS)}]{{{BARE},}}", re.DOTALL)
FORMULA = re.compile(
    r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>(?:(?!\\\[).)+?)\\\]|\\\((?P<c>(?:(?!\\\().)+?)\\\)|(?<!\\)\$(?P<d>[^$\n]+?)(?<!\\)\$",
    re.DOTALL,
)
NO_WORDS = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+"
    r"|(?<![A-Za-z])(?:and|or|[Oo]ption|[Cc]hoice|sin|cos|tan|log|sqrt|arcsin|arccos|arctan|mod|gcd|pi)\b"
)
WORD = re.compile(r"[A-Za-zÀ-ÿЀ-ӿ]{2,}|[\u3040-\u30ff\u4e00-\u9fff]")
COMMAND = re.compile(r"\\[^$%]|[π√∞]")
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
NUMBER = (
    r"(?<![A-Za-z\d.,_^])(?:(?<![\d)\]}])[-−])?\s?(?:\\?[$€£])?[-−]?"
    rf"(?:\d+\s+\d+/\d+|\d+(?::\d+)+|{DIGITS}(?:\s*/\s*\d+(?!\d))?)"
    r"(?:\s*(?:\\?%|(?:percent|thousand|million|billion|[aApP]\.?[mM])\b))?"
)
VALUE = rf"(?:{F}(?:\s*(?:\\?%|percent\b))?|{NUMBER})"
JOINED = r"(?:\s*(?:[A-Za-z]+\s*)?,?\s*(?:\b(?:and|or|to)\b|&)\s*|[\s,;:=+*/^()×·÷−-]+)"
VALUES = re.compile(rf"{VALUE}(?:{JOINED}{VALUE})*")
ONE_VALUE = re.compile(
    rf"[\s=#]*(?P<value>{NUMBER})(?:\s+(?!(?:is|are|was|equals)\b)[A-Za-z][A-Za-z'’/-]*){{0,5}}[\s.!]*"
)
CHOICE = re.compile(r"(?:(?i:option|choice)\s+)?\(?[A-J](?:[).:]|$)")

SENTENCE_END = re.compile(r"(?<!\\)[.!?]+(?=\s|$)|。|\n")
REASON = re.compile(r",?\s(?:because|since|as|which|where|so)\s|,\s*(?:but|not)\s", re.IGNORECASE)
COPULA = re.compile(
    r"\b(?:is|are|was|were|be|equals?|gives?|makes?|hence|thus|therefore)\b(?:\s+equal\s+to\b)?|:(?!\d)|[=是]",
    re.IGNORECASE,
)
CONTRAST = re.compile(r".*\bnot\b.*?\bbut\b", re.DOTALL)
DOUBT = r"\b(?:wrong|incorrect|false|doubt|unlikely)\b|(?:\bnot|n't)\s+(?:think|believe|sure|true|certain|know)\b"
DOUBTED = re.compile(rf"{DOUBT}|\b(?:cannot|can't|never|not) be\b|\b(?:could|might|may)\b.*\bor\b", re.IGNORECASE)
# Before a mark: "It is not the case that the answer is", "If the answer is".
UNCLAIMED = re.compile(rf"{DOUBT}|\b(?:not|never|cannot|unless|whether|if)\b|n't\b", re.IGNORECASE)
NOT = r"(?:\b(?:not|never|nicht|pas|не)\b|n't\b)"
DENIED_BEFORE = re.compile(rf"{NOT}\W+(?:[\w']+\W+){{0,3}}$", re.IGNORECASE)
DENIED_BEHIND = re.compile(rf"\W*(?:[\w']+\W+){{0,2}}?(?:{NOT}|\b(?:wrong|incorrect|false)\b)|\w+{NOT}", re.IGNORECASE)
HEDGED_BEFORE = re.compile(
    r"\b(?:than|at (?:most|least)|up to|between|either|not|maybe|perhaps|possibly|exceeds?)\W*$", re.IGNORECASE
)
# After a mark a value that another word relates to the answer is not the answer: "a divisor of", "different from".
RELATED_BEFORE = re.compile(
    r"\b(?:(?<!total )(?<!value )of|(?<!equal )to|from|by|under|over|below|above|near|within|beyond|but|except|besides"
    r"|twice|half|double|triple|minus|plus|times|negative)\W*$",
    re.IGNORECASE,
)
HEDGED_BEHIND = re.compile(
    r"\W*\b(?:or|plus|minus|times \d|squared|cubed|divided|multiplied|(?:more|less|fewer|greater) than)\b"
    r"|.*\botherwise\b|.*\?",
    re.IGNORECASE,
)
OPERATION = re.compile(r"[+*×·÷]|\\(?:times(?!\s*10\^)|cdot|div|pm)(?![A-Za-z])|(?<=[\w)}\]])\s*[-−]")
TWO_NUMBERS = re.compile(r"(?<=\d)\s+(?=\d)")
EQUALS, CONNECTED = re.compile(r"(?<![<>\\])="), re.compile(r",|\b(?:and|or)\b")
# How a text ends that has come to an end: with a sentence, a formula, a block or a number.
ENDING = re.compile(rf"(?<!\.\.)(?:[\d.!?。)\]}}$*`\"'”%°]|{F})$")
# Programs, and the fences of what they print.
CODE = re.compile(r"^```(?!output|text)\w+\n.*?^```$|^```\w*$", re.MULTILINE | re.DOTALL)
BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")


class Sentences:
    """A text in which each formula is one character, so that its sentences can be read as such."""

    def __init__(self, text: str) -> None:
        self.formulas: list[str] = []
        self.source = text
        self.text = self._masked(text)

    def marked(self, marks: Sequence[re.Pattern[str]]) -> tuple[bool, str | None]:
        """Whether anything marks an answer, and that of the last mark.

        Args:
            marks: by rank; what each is followed by is its group `span`.
        """
        text = EMPHASIS.sub("", self.text)
        for mark in marks:
            if found := list(mark.finditer(text)):
                return self._last_stated(text, found)
        return False, None

    def last_value(self) -> str | None:
        """The last value of a text that has come to an end, or that is nothing but a value."""
        text = self.text.strip()
        if not self._closed(text):
            return None
        bare = EMPHASIS.sub("", text)
        if "\n" not in text and len(text) <= BARE and (one := ONE_VALUE.fullmatch(bare)):
            return self._restored(one["value"])
        if "\n" not in text and len(text) <= BARE and not _has_words(bare):
            return self._computed(bare)
        if not ENDING.search(text):
            return None
        for sentence in reversed(SENTENCE_END.split(CODE.sub("", text[-TAIL:]))):
            if VALUES.search(sentence):
                bold = [match.group(1) for match in BOLD.finditer(sentence) if VALUES.search(match.group(1))]
                claim = self._claim(EMPHASIS.sub("", bold[-1] if bold else sentence), last=True)
                return claim and self._computed(claim)
        return None

    def _last_stated(self, text: str, marks: list[re.Match[str]]) -> tuple[bool, str | None]:
        for mark in reversed(marks):
            before = SENTENCE_END.split(text[: mark.start()])[-1]
            span = mark["span"].strip()
            sentence = REASON.split(SENTENCE_END.split(span)[0])[0].strip()
            if not OPENS_A_SOLUTION.match(text[mark.start("span") - 1] + sentence):
                denied = UNCLAIMED.search(re.split(r"[,;]", before)[-1])
                return True, None if denied else self._claim(sentence, last=False)
        return False, None

    def _claim(self, sentence: str, last: bool) -> str | None:
        """What a sentence gives as the answer: the first value of its claim, or the last; without a value, words."""
        claim, copula = _behind_copula(CONTRAST.sub("", sentence).strip())
        if not _has_words(claim) or COMMAND.search(claim) or CHOICE.match(claim):
            return self._restored(claim) or None
        values = list(VALUES.finditer(claim))
        if copula == "=" and values:  # = 3 200-gram packets
            return self._restored(TWO_NUMBERS.split(values[0].group())[0])
        if not values:
            return None if last or DENIED_BEFORE.search(claim) else claim or None
        value = values[-1 if last else 0]
        return None if _is_denied(claim, value, marked=not last) else self._restored(value.group())

    def _computed(self, value: str) -> str | None:
        """A value in which nothing is left to compute; of an equation, its right side."""
        value = self._restored(value)
        if not CONNECTED.search(value):
            value = EQUALS.split(value)[-1].strip()
        return None if OPERATION.search(value) else value or None

    def _masked(self, text: str) -> str:
        parts, position = [], 0
        while (found := FORMULA.search(text, position)) and len(self.formulas) < FORMULAS:
            content = next(group for group in found.groups() if group is not None)
            if found.lastgroup == "d" and _is_prose(content):  # two prices
                parts.append(text[position : found.start() + 1])
                position = found.start() + 1
            else:
                parts += [text[position : found.start()], chr(FIRST + len(self.formulas))]
                self.formulas.append(content)
                position = found.end()
        return "".join(parts) + text[position:]

    def _restored(self, text: str) -> str:
        return re.sub(F, lambda match: self.formulas[ord(match.group()) - FIRST], text).strip()

    def _closed(self, text: str) -> bool:
        """Whether every block of code and every displayed formula has ended."""
        return text.count("```") % 2 == 0 and not re.search(r"\$\$|\\\[|\\\(", text)


def _behind_copula(sentence: str) -> tuple[str, str]:
    """What follows the last copula before a value, and that copula; nothing where the sentence doubts it."""
    for copula in reversed(list(COPULA.finditer(sentence))) if _has_words(sentence) else []:
        if VALUES.search(sentence, copula.end()):
            doubted = copula.group() != "=" and DOUBTED.search(sentence, 0, copula.end())
            return ("" if doubted else sentence[copula.end() :].strip()), copula.group()
    return sentence, ""


def _is_denied(claim: str, value: re.Match[str], marked: bool) -> bool:
    """Whether the words beside a value say that it is not the answer, or only perhaps, or something like it."""
    before = claim[: value.start()]
    patterns = (DOUBTED, DENIED_BEFORE, HEDGED_BEFORE, *([RELATED_BEFORE] if marked else []))
    return any(pattern.search(before) for pattern in patterns) or any(
        pattern.match(claim, value.end()) for pattern in (DENIED_BEHIND, HEDGED_BEHIND)
    )


def _has_words(text: str) -> bool:
    """Other than those that formulas have."""
    return bool(WORD.search(NO_WORDS.sub("", text)))


def _is_prose(content: str) -> bool:
    return _has_words(content) or content.rstrip().endswith(tuple("+-*/=(,"))
