r"""Where a completion, or a worked solution, states its final answer.

What does not belong to the answer to this task is cut off first: thoughts, later turns, and the next task that a model
invents when it does not stop. Of what remains, the first row that applies decides, at its last place in the text:

    mark                                      ends with                     states
    \boxed{…}, \fbox{…}                       its brace                     all of it, with the boxes beside it
    #### …                                    the line                      its claim
    <answer>…</answer>, "answer": …           its tag, its quotation mark   its claim
    A: …, at the end                          the line                      its claim
    the answer is …, Answer: …, Result: …     the sentence, or "because"    its claim
    none: a completion of one value           the text                      that value
    none: the last sentence with a value      the sentence                  its claim's last value

The claim of a sentence is what follows its last "is", "equals", "gives", ":", or "="; without words it counts as it
stands, with words its first value. A value is a formula in dollar signs or a number; values that commas, operations or
"and" join are one, and so no single answer. A value that is denied or hedged ("not 18", "at most 18", "18 or so") is none.
The last two rows take only values in which nothing is left to compute, and the last one only the values of a text that
has come to an end: one that breaks off in a sentence, a formula or a block of code has no answer yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from bots_lightning.rewards.answers import after_thinking
from bots_lightning.rewards.maths_typography import plain

Extraction = Literal["boxed", "strict", "flexible"]

# Characters: of a completion that is a value and nothing else, of what may follow a mark, of the end with the last value.
BARE, SPAN, TAIL = 60, 400, 1500
# A formula is one character of Unicode's private use area while sentences are read.
FIRST, FORMULAS = 0xE000, 6000
F = rf"[{chr(FIRST)}-{chr(FIRST + FORMULAS)}]"

END_OF_TURN = re.compile(r"<\|(?:im_end|eot_id|endoftext|end_of_text|end)\|>|</s>")
NEXT_TASK = re.compile(
    r"^[ \t]*(?:#+[ \t]*|\*\*)?(?:Question|Q|Problem|Exercise|Human|User|Instruction)(?:\*\*)?[ \t]*:", re.MULTILINE
)
# Calculator notes of GSM8K, marks of turns, and emphasis.
NO_TEXT = re.compile(r"<<[^<>\n]*>>|<\|[a-z_]{1,30}\|>|</s>|[\uE000-\uF8FF]")
EMPHASIS = re.compile(r"\*\*|__|`")

BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w\\])")
BETWEEN_BOXES = re.compile(
    r"(?:[\s$.,;&]|\\[()\[\]\\ ,;:!]|\\q?quad|\\(?:text|mbox|mathrm)\s*\{\s*(?:and|or|,)\s*\}|\b(?:and|or)\b"
    r"|[A-Za-z](?:_\w)?\s*=|(?<=\n)\s*(?:\d+[.)]|[-*])\s)*"
)

NOUN = r"(?:answers?|ans|result|(?<=correct )(?:option|choice)|réponse|respuesta|antwort|risposta|resposta|ответ|答案|答え|답)"
IS = r"(?:is|are|was|would be|will be|should be|equals|est|es|ist|è|é)"
DETERMINER = r"(?:the|final|correct|our|my|la|die|der|sua|a)"
VERIFIED = r"(?!\s*(?:correct|right|wrong|incorrect|reasonable|as follows)\b)"
MARKS = [
    re.compile(pattern, flags)
    for pattern, flags in (
        (
            r"(?<!#)####(?!#)[ \t]*(?!(?:step|case|part|solution|explanation)\b)(?:(?:final\s+)?answer[ \t]*\n)?:?"
            r"(?P<span>[^\n]*\S[^\n]*)",
            re.IGNORECASE,
        ),
        (r"<answer>(?P<span>(?:(?!<answer>).)*?)</answer>", re.DOTALL),
        (r'"answer"\s*:\s*"?(?P<span>[^"{}]*)', re.NOFLAG),
        (r"(?:^|\n)[ \t]*A:[ \t]*(?P<span>\S[^\n]*)\s*$", re.NOFLAG),
        (
            rf"(?:(?:^[\s#>]*(?:final\s+)?|(?<!check )(?<!verify )\b{DETERMINER}\s+){NOUN}\b"
            rf"(?:(?!\s+(?:as|by|with|from)\b)[^.\d\n:=$\\]{{0,80}}?\s{IS}\b{VERIFIED}\s*:?"
            r"|(?:\s*\([^)\n]{0,40}\)|\s+(?:to|for|in)\s[^.\d\n:=$\\]{1,60}?)?\s*[:=])"
            r"|^[ \t#]*(?:the\s+)?(?:final\s+)?answer[ \t]*\n)"
            rf"(?=(?P<span>.{{0,{SPAN}}}))",
            re.IGNORECASE | re.MULTILINE | re.DOTALL,
        ),
        (r"\b(?i:option|choice)\s+(?P<span>\(?[A-J]\)?)\s+is\s+(?:correct|right|the\s)", re.NOFLAG),
    )
]
# "Answer: Janet eats three eggs and …" opens a solution.
OPENS_A_SOLUTION = re.compile(rf"[:=]\s*[^{chr(FIRST)}-{chr(FIRST + FORMULAS)}]{{{BARE},}}", re.DOTALL)

FORMULA = re.compile(
    r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>.+?)\\\]|\\\((?P<c>.+?)\\\)|(?<!\\)\$(?P<d>[^$\n]+?)(?<!\\)\$", re.DOTALL
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
    r"\b(?:(?<!total )(?<!value )of|(?<!equal )to|from|by|under|over|below|above|near|within|beyond|but|except|besides|twice"
    r"|half|double|triple|minus|plus|times|negative)\W*$",
    re.IGNORECASE,
)
HEDGED_BEHIND = re.compile(
    r"\W*\b(?:or|plus|minus|times \d|squared|cubed|divided|multiplied|(?:more|less|fewer|greater) than)\b|.*\botherwise\b|.*\?",
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


def final_answer(completion: str, extraction: Extraction = "flexible") -> str | None:
    """The answer of a model's completion, None if it gives none.

    Args:
        completion: in full; an end of thought without a beginning is the end of one.
        extraction: which rows of the table count: "boxed" the first, "strict" those with a mark, "flexible" all.
    """
    text = _this_task(after_thinking(NO_TEXT.sub("", _first_turn(plain(completion)))))
    if extraction == "boxed" or BOX.search(text):
        return _boxed(text)
    sentences = Sentences(text)
    marked, answer = sentences.marked()
    return answer if marked or extraction == "strict" else sentences.last_value()


def stated_answer(text: str) -> str | None:
    """The marked answer of a worked solution; a text of one line without marks is the answer itself."""
    text = NO_TEXT.sub("", plain(text)).strip()
    if BOX.search(text):
        return _boxed(text)
    marked, answer = Sentences(text).marked()
    several_lines = "\n" in text and "\\begin" not in text
    return answer if marked else None if several_lines else text or None


def _first_turn(completion: str) -> str:
    return next((turn for turn in END_OF_TURN.split(completion) if turn.strip()), "")


def _this_task(text: str) -> str:
    """The text before the first line that opens another task, if it has marked an answer by then."""
    for opening in NEXT_TASK.finditer(text):
        before = text[: opening.start()]
        if (_boxed(before) if BOX.search(before) else Sentences(before).marked()[1]) is not None:
            return before
    return text


def _boxed(text: str) -> str | None:
    r"""What the last box holds, with its neighbours if nothing but separators stands between them.

    An empty box, as in instructions, is none. If the last one does not close, the text broke off in its answer.
    """
    boxes = [box for box in _boxes(text) if box[2] is None or box[2].strip()]
    if not boxes or boxes[-1][2] is None:
        return None
    contents, first = [boxes[-1][2]], boxes[-1][0]
    for start, end, content in reversed(boxes[:-1]):
        if content is None or not BETWEEN_BOXES.fullmatch(text, end, first):
            break
        if content.strip() != contents[0].strip():
            contents.insert(0, content)
        first = start
    return ", ".join(contents)


def _boxes(text: str) -> Iterator[tuple[int, int, str | None]]:
    r"""Start, end and content of the outermost boxes; the content is None where a brace does not close."""
    position = 0
    while box := BOX.search(text, position):
        if text[box.end() : box.end() + 1] == "{":
            position = _closing_brace(text, box.end())
            content = text[box.end() + 1 : position - 1] if position else None
        else:  # \boxed 5
            rest = re.compile(r"[^\s$.,;]+").match(text, box.end())
            position, content = (rest.end(), rest.group()) if rest else (box.end(), "")
        yield box.start(), position, content
        if content is None:
            return


def _closing_brace(text: str, opening: int) -> int:
    """The index after the brace that closes the one at `opening`, 0 if none does."""
    depth = 0
    for brace in re.compile(r"\\[\\{}]|[{}]").finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.end()
    return 0


class Sentences:
    """A text in which each formula is one character, so that its sentences can be read as such."""

    def __init__(self, text: str) -> None:
        self.formulas: list[str] = []
        self.source = text
        self.text = self._masked(text)

    def marked(self) -> tuple[bool, str | None]:
        """Whether anything marks an answer, and that of the last mark."""
        text = EMPHASIS.sub("", self.text)
        for mark in MARKS:
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
        claim, equation = CONTRAST.sub("", sentence).strip(), False
        for copula in reversed(list(COPULA.finditer(claim))):
            if _has_words(claim) and VALUES.search(claim, copula.end()):
                equation = copula.group() == "="
                if not equation and DOUBTED.search(claim, 0, copula.end()):
                    return None
                claim = claim[copula.end() :].strip()
                break
        if not _has_words(claim) or COMMAND.search(claim) or CHOICE.match(claim):
            return self._restored(claim) or None
        values = list(VALUES.finditer(claim))
        if not values:
            return None if last or DENIED_BEFORE.search(claim) else claim or None
        value = values[-1 if last and not equation else 0]
        if equation:  # = 3 200-gram packets
            return self._restored(TWO_NUMBERS.split(value.group())[0])
        before = claim[: value.start()]
        if any(pattern.search(before) for pattern in (DOUBTED, DENIED_BEFORE, HEDGED_BEFORE)):
            return None
        if not last and RELATED_BEFORE.search(before):
            return None
        hedged = any(pattern.match(claim, value.end()) for pattern in (DENIED_BEHIND, HEDGED_BEHIND))
        return None if hedged else self._restored(value.group())

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


def _has_words(text: str) -> bool:
    """Other than those that formulas have."""
    return bool(WORD.search(NO_WORDS.sub("", text)))


def _is_prose(content: str) -> bool:
    return _has_words(content) or content.rstrip().endswith(tuple("+-*/=(,"))
