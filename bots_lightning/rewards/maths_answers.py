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
"and" join are one, and so no single answer. A value that is denied or hedged ("not 18", "at most 18", "18 or so") is
none. The last two rows take only values in which nothing is left to compute, and the last one only the values of a text
that has come to an end: one that breaks off in a sentence, a formula or a block of code has no answer yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from bots_lightning.rewards.answers import after_thinking
from bots_lightning.rewards.maths_sentences import Sentences
from bots_lightning.rewards.maths_typography import plain

Extraction = Literal["boxed", "strict", "flexible"]

# Characters that may follow a mark.
SPAN = 400

END_OF_TURN = re.compile(r"<\|(?:im_end|eot_id|endoftext|end_of_text|end)\|>|</s>")
NEXT_TASK = re.compile(
    r"^[ \t]*(?:#+[ \t]*|\*\*)?(?:Question|Q|Problem|Exercise|Human|User|Instruction)(?:\*\*)?[ \t]*:", re.MULTILINE
)
# Calculator notes of GSM8K, and marks of turns.
NO_TEXT = re.compile(r"<<[^<>\n]*>>|<\|[a-z_]{1,30}\|>|</s>|[\uE000-\uF8FF]")

BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w\\])")
BETWEEN_BOXES = re.compile(
    r"(?:[\s$.,;&]|\\[()\[\]\\ ,;:!]|\\q?quad|\\(?:text|mbox|mathrm)\s*\{\s*(?:and|or|,)\s*\}|\b(?:and|or)\b"
    r"|[A-Za-z](?:_\w)?\s*=|(?<=\n)\s*(?:\d+[.)]|[-*])\s)*"
)

NOUN = (
    r"(?:answers?|ans|result|(?<=correct )(?:option|choice)"
    r"|réponse|respuesta|antwort|risposta|resposta|ответ|答案|答え|답)"
)
IS = r"(?:is|are|was|would be|will be|should be|equals|est|es|ist|è|é)"
DETERMINER = r"(?:the|final|correct|our|my|la|die|der|sua|a)"
VERIFIED = r"(?!\s*(?:correct|right|wrong|incorrect|reasonable|as follows)\b)"
MARKS = [
    re.compile(pattern, flags)
    for pattern, flags in (
        (
            r"(?<!#)####(?!#)[ \t]*+(?!(?:step|case|part|solution|explanation)\b)(?:(?:final\s+)?answer[ \t]*\n)?:?"
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
    marked, answer = sentences.marked(MARKS)
    return answer if marked or extraction == "strict" else sentences.last_value()


def stated_answer(text: str) -> str | None:
    """The marked answer of a worked solution; a text of one line without marks is the answer itself."""
    text = NO_TEXT.sub("", plain(text)).strip()
    if BOX.search(text):
        return _boxed(text)
    marked, answer = Sentences(text).marked(MARKS)
    several_lines = "\n" in text and "\\begin" not in text
    return answer if marked else None if several_lines else text or None


def _first_turn(completion: str) -> str:
    return next((turn for turn in END_OF_TURN.split(completion) if turn.strip()), "")


def _this_task(text: str) -> str:
    """The text before the first line that opens another task, if it has marked an answer by then."""
    for opening in NEXT_TASK.finditer(text):
        before = text[: opening.start()]
        if (_boxed(before) if BOX.search(before) else Sentences(before).marked(MARKS)[1]) is not None:
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
