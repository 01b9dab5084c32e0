r"""Where a completion, or a worked solution, states its final answer.

In this order: the last `\boxed{}`; the last line that begins with `####`; the last `<answer>…</answer>`; a last line
`A: …`; the last "answer is …" or "Answer: …". Where nothing marks an answer, the last number or formula counts, as is
usual in the field, but only if the text has come to an end: one that breaks off in a sentence, a formula or a block of
code has no answer yet.

What follows the end of a turn, or an answer and a line such as `Question:`, is no longer about this task: models that
were not taught to stop invent the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bots_lightning.rewards.maths_typography import tidy

# A completion without any mark that is no longer than this is the answer itself.
BARE_ANSWER = 60
# How far after a mark the answer may reach, and how far back the last number is looked for.
SPAN, TAIL = 400, 1500

BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[{\w\\])")
BETWEEN_BOXES = re.compile(r"[\s$.,;]*(?:\\[)\]])?[\s$.,;]*(?:\b(?:and|or)\b)?[\s$,;]*(?:\\[(\[])?[\s$]*")
HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)", re.MULTILINE)
TAGGED = re.compile(r"<answer>\s*([^<>]*?)\s*</answer>")
# Calculator notes of GSM8K, and marks of turns.
NO_TEXT = re.compile(r"<<[^<>\n]*>>|<\|[a-z_]{1,30}\|>|</s>")
END_OF_TURN = re.compile(r"<\|(?:im_end|eot_id|endoftext|end_of_text|end)\|>|</s>")
NEXT_TASK = re.compile(
    r"^[ \t]*(?:#+[ \t]*|\*\*)?(?:Question|Q|Problem|Exercise|Human|User|Instruction)(?:\*\*)?[ \t]*:", re.MULTILINE
)
ANSWER_IS = re.compile(
    r"(?:^[\s#>-]*|\b(?:the|final|correct|our|my)\s+)(?:answers?|(?<=correct )(?:option|choice))\b"
    r"(?:(?!\s+(?:as|by|with|from)\b)[^.\d\n:=$\\]{0,80}?\s(?:is|are|was|would be|will be|should be|equals)\b\s*:?"
    r"|(?:\s*\([^)\n]{0,40}\)|\s+(?:to|for|in)\s[^.\d\n:=$\\]{1,60}?)?\s*[:=])\s*",
    re.IGNORECASE | re.MULTILINE,
)
ANSWER_HEADING = re.compile(r"^[ \t#]*(?:the\s+)?(?:final\s+)?answer[ \t]*\n\s*(?=\S)", re.IGNORECASE | re.MULTILINE)
LAST_A = re.compile(r"(?:^|\n)[ \t]*A:[ \t]*(\S[^\n]*)\s*$")
DENIAL = re.compile(r"(?:not|n't|incorrect|correct|wrong|right)\b", re.IGNORECASE)

FORMULA = re.compile(
    r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>.+?)\\\]|\\\((?P<c>.+?)\\\)|(?<!\\)\$(?P<d>[^$\n]+?)(?<!\\)\$", re.DOTALL
)
PERCENT = re.compile(r"\s*(?:\\?%|percent\b)")
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(
    rf"(?<![A-Za-z\d.,_^])(?:(?<![\d)\]}}])[-−])?\s?(?:\\?[$€£])?[-−]?"
    rf"(?:\d+\s+\d+/\d+|\d+(?::\d+)+|{DIGITS}(?:\s*/\s*\d+(?!\d))?)"
    r"(?:\s*(?:\\?%|(?:percent|thousand|million|billion|[aApP]\.?[mM])\b))?"
)
NUMBER_AND_WORDS = re.compile(rf"\s*({NUMBER.pattern})(?:\s+[A-Za-z][A-Za-z\s.'’,/-]*)?[\s.]*")
SENTENCE_END = re.compile(r"(?<!\\)[.!?]+(?=\s|$)|\n")
REASON = re.compile(r",?\s(?:because|since|as|which|where|so)\s", re.IGNORECASE)
WORD = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|log|sqrt|arcsin|arccos|arctan|mod|gcd)\b)[A-Za-z]{2,}|[\u3040-\u30ff\u4e00-\u9fff]"
)
COMMAND = re.compile(r"\\[^$%]")
TOGETHER = re.compile(r"\s*(?:[A-Za-z]+\s*)?,?\s*(?:and|or|to)\s*")
TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{[^{}]*\}")
NOT = re.compile(r"\bnot\s*$")
# How a text ends that has come to an end: with a sentence, a formula, a block or a number.
ENDING = re.compile(r"(?<!\.\.)(?<!…)[\d.!?。)\]}$*`\"'”%°]$")
BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")


def final_answer(completion: str, require_boxed: bool = False) -> str | None:
    r"""The answer of a model's completion, None if it gives none.

    Text before the last `</think>` is not read, and a thought that has not ended has no answer.
    """
    completion = NO_TEXT.sub("", _first_turn(completion))
    if "</think>" in completion:
        completion = completion.rpartition("</think>")[2]
    elif "<think>" in completion:
        return None
    completion = _first_task(completion)
    if require_boxed or BOX.search(completion):
        return _boxed(completion)
    return _marked(completion) or _last(completion)


def _first_turn(completion: str) -> str:
    return next((turn for turn in END_OF_TURN.split(completion) if turn.strip()), "")


def _first_task(text: str) -> str:
    """The text before the first line that opens another task, if it has marked an answer by then."""
    for opening in NEXT_TASK.finditer(text):
        before = text[: opening.start()]
        if (_boxed(before) if BOX.search(before) else _marked(before)) is not None:
            return before
    return text


def stated_answer(text: str) -> str | None:
    """The marked answer of a worked solution; a text of one line without marks is the answer itself."""
    text = NO_TEXT.sub("", text).strip()
    if BOX.search(text):
        return _boxed(text)
    several_lines = "\n" in text and "\\begin" not in text
    return _marked(text) or (None if several_lines else text or None)


def _boxed(text: str) -> str | None:
    r"""What the last box holds, with its neighbours if only commas, "and" or "or" stand between them.

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


def _marked(text: str) -> str | None:
    """The answer after the last mark that has one."""
    for pattern in (HASHES, TAGGED):
        if given := pattern.findall(text):
            return given[-1]
    if last := LAST_A.search(text):
        return last.group(1)
    plain = text.replace("**", "").replace("__", "")
    marks = [*ANSWER_IS.finditer(plain), *ANSWER_HEADING.finditer(plain)]
    for mark in sorted(marks, key=lambda mark: mark.end(), reverse=True):
        span = plain[mark.end() : mark.end() + SPAN]
        if not span.strip():
            return None  # it broke off before the answer
        if not DENIAL.match(span) and (answer := _of_span(span, mark.group().rstrip()[-1] == ":")):
            return answer
    return None


def _of_span(span: str, after_colon: bool) -> str | None:
    """The answer at the beginning of what follows a mark."""
    if (formula := FORMULA.match(span.lstrip())) and _is_formula(formula):
        return _run_of(span.lstrip(), _formulas(span.lstrip()))
    sentence = REASON.split(_first_sentence(span))[0].strip()
    if after_colon and len(sentence) > BARE_ANSWER and not FORMULA.search(sentence):
        return None  # "Answer: Janet eats three eggs and …" opens a solution
    return _of_sentence(sentence, last=False)


def _first_sentence(span: str) -> str:
    end = SENTENCE_END.search(span)
    return span[: end.start()] if end else span


def _of_sentence(sentence: str, last: bool) -> str | None:
    """The formula, number or word that a sentence gives as answer: the first of it, or the last."""
    if formulas := _formulas(sentence):
        return _run_of(sentence, formulas, last)
    if bare := NUMBER_AND_WORDS.fullmatch(sentence):
        return bare.group(1)
    if COMMAND.search(sentence) or not WORD.search(tidy(sentence)):
        return sentence or None
    numbers = list(NUMBER.finditer(sentence))
    if not numbers:
        return sentence or None
    equals = sentence.rfind("=")
    after = [number for number in numbers if number.start() >= equals]
    if equals >= 0 and after:
        return after[0].group()
    if not last and len(numbers) > 1 and TOGETHER.fullmatch(sentence, numbers[0].end(), numbers[1].start()):
        return sentence[numbers[0].start() : numbers[1].end()]  # "3 and 4", "3 hours and 20 minutes"
    return numbers[-1 if last else 0].group()


def _formulas(text: str) -> list[re.Match[str]]:
    return [formula for formula in FORMULA.finditer(text) if _is_formula(formula)]


def _is_formula(formula: re.Match[str]) -> bool:
    """Whether dollar signs enclose mathematics, and not the words between two prices."""
    if formula.lastgroup != "d":
        return True
    content = formula.group("d")
    return not WORD.search(TEXT.sub("", content)) and not content.rstrip().endswith(tuple("+-*/=(,"))


def _run_of(text: str, formulas: Iterable[re.Match[str]], last: bool = False) -> str:
    """The first formula (or the last) and those that commas, "and", "or" join to it."""
    runs: list[list[re.Match[str]]] = []
    for formula in formulas:
        if runs and re.fullmatch(r"\s*(?:,|,?\s*(?:and|or))\s*", text[runs[-1][-1].end() : formula.start()]):
            runs[-1].append(formula)
        else:
            runs.append([formula])
    run = runs[-1 if last else 0]
    contents = [next(group for group in formula.groups() if group is not None) for formula in run]
    return ", ".join(contents) + ("%" if PERCENT.match(text, run[-1].end()) else "")


def _last(completion: str) -> str | None:
    """The last number or formula of a text that has come to an end."""
    text = completion.strip()
    if not _closed(text):
        return None
    if "\n" not in text and len(text) <= BARE_ANSWER:
        bare = text.replace("**", "").removesuffix(".")
        if NUMBER_AND_WORDS.fullmatch(bare) or not NUMBER.search(bare) or not WORD.search(tidy(bare)):
            return _of_sentence(bare, last=True)
    return _last_number(re.sub(r"^```\w*$", "", text[-TAIL:], flags=re.MULTILINE)) if ENDING.search(text) else None


def _last_number(text: str) -> str | None:
    formulas, numbers = _formulas(text), list(NUMBER.finditer(text))
    if formulas and (not numbers or numbers[-1].end() <= formulas[-1].end()):
        return _run_of(text, formulas, last=True)
    if not numbers or NOT.search(text, 0, numbers[-1].start()):
        return None
    before = [*SENTENCE_END.finditer(text, 0, numbers[-1].start()), *formulas]
    start = max([each.end() for each in before], default=0)
    sentence = text[start : numbers[-1].end()] + _first_sentence(text[numbers[-1].end() :])
    bold = [match.group(1) for match in BOLD.finditer(sentence) if NUMBER.search(match.group(1))]
    return _of_sentence((bold[-1] if bold else sentence.replace("**", "")).strip(), last=True)


def _closed(text: str) -> bool:
    """Whether every block of code and every displayed formula has ended."""
    pairs = ((r"\[", r"\]"), (r"\(", r"\)"))
    even = all(text.count(fence) % 2 == 0 for fence in ("```", "$$"))
    return even and all(text.count(opening) <= text.count(closing) for opening, closing in pairs)
