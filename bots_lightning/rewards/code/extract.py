"""The program in a completion, found without parsing it: sources that crash a parser are not for this process."""

from __future__ import annotations

import re
from collections.abc import Iterator

FENCE = "```"
PYTHON = ("python", "python3", "py")
UNINDENTED = re.compile(r"^[^\s)\]}\"'#]", re.MULTILINE)


def extract_program(completion: str, stub: str = "", entry_point: str = "") -> str | None:
    """The last fenced block marked as Python, else the last one without a mark, else the whole text.

    A block of Python that does not close counts where no other does. What comes before the last `</think>` is not
    looked at. Text that is no Python fails later, in the sandbox. Where the prompt is a stub (HumanEval's signature and
    docstring) and the text found does not define the entry point, it is the function's body and continues the stub;
    without a fence, up to the first line that is not indented.

    Args:
        completion: of the model.
        stub: Python code that the completion may continue, or "".
        entry_point: the name that the program must define for the stub to be left out.

    Returns:
        The program, or None: there is nothing but white space.
    """
    text = completion.rpartition("</think>")[2]
    blocks = list(_fenced(text))
    marked = [body for language, body, _ in blocks if language in PYTHON]
    closed = [body for language, body, closes in blocks if language in PYTHON and closes]
    unmarked = [body for language, body, closes in blocks if not language and closes]
    found = (closed or marked or unmarked or [text])[-1]
    if not found.strip():
        return None
    if not stub or _definition(entry_point).search(found):
        return found
    end = None if blocks or not found.lstrip("\n").startswith((" ", "\t")) else UNINDENTED.search(found)
    return stub.rstrip("\n") + "\n" + (found[: end.start()] if end else found)


def _fenced(text: str) -> Iterator[tuple[str, str, bool]]:
    """Language, in lower case, content, less the fence's indentation, and whether it closes, of each block.

    In linear time.
    """
    language, body, indent = None, list[str](), 0
    for line in text.split("\n"):
        mark = line.strip()
        if language is None and mark.startswith(FENCE):
            language, body = (mark[len(FENCE) :].lower().split() or [""])[0], []
            indent = len(line) - len(line.lstrip(" "))
        elif language is not None and mark == FENCE:
            yield language, "".join(body), True
            language = None
        else:
            body.append(line[:indent].lstrip(" ") + line[indent:] + "\n")
    if language is not None:
        yield language, "".join(body), False


def _definition(name: str) -> re.Pattern[str]:
    word = re.escape(name)
    return re.compile(rf"^((async[ \t]+)?def|class)[ \t]+{word}\b|^{word}[ \t]*[:=]", re.MULTILINE)
