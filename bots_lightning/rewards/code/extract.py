"""The program in a completion, found without parsing it: sources that crash a parser are not for this process."""

from __future__ import annotations

import re
from collections.abc import Iterator

FENCE = "```"
PYTHON = ("python", "python3", "py")


def extract_program(completion: str, stub: str = "", entry_point: str = "") -> str | None:
    """The last fenced block marked as Python, else the last one without a mark, else the whole text.

    What comes before the last `</think>` is not looked at. Text that is no Python fails later, in the sandbox. Where
    the prompt is a stub (HumanEval's signature and docstring) and the text found does not define the entry point, it is
    the function's body and continues the stub.

    Args:
        completion: of the model.
        stub: Python code that the completion may continue, or "".
        entry_point: the name that the program must define for the stub to be left out.

    Returns:
        The program, or None: there is nothing but white space.
    """
    text = completion.rpartition("</think>")[2]
    blocks = list(_fenced(text))
    marked = [body for language, body in blocks if language in PYTHON]
    unmarked = [body for language, body in blocks if not language]
    found = (marked or unmarked or [text])[-1]
    if not found.strip():
        return None
    if not stub or _definition(entry_point).search(found):
        return found
    return stub.rstrip("\n") + "\n" + found


def _fenced(text: str) -> Iterator[tuple[str, str]]:
    """Language, in lower case, and content of the blocks that are closed; in linear time."""
    language, body = None, list[str]()
    for line in text.split("\n"):
        mark = line.strip()
        if language is None and mark.startswith(FENCE):
            language, body = (mark[len(FENCE) :].lower().split() or [""])[0], []
        elif language is not None and mark == FENCE:
            yield language, "".join(part + "\n" for part in body)
            language = None
        else:
            body.append(line)


def _definition(name: str) -> re.Pattern[str]:
    word = re.escape(name)
    return re.compile(rf"^((async[ \t]+)?def|class)[ \t]+{word}\b|^{word}[ \t]*[:=]", re.MULTILINE)
