"""The program in a completion, found without parsing it: sources that crash a parser are not for this process."""

from __future__ import annotations

import re
from collections.abc import Collection

from bots_lightning.rewards.code.fences import Block, fenced_blocks

UNINDENTED = re.compile(r"^[^\s)\]}\"'#]", re.MULTILINE)
CODE = re.compile(r"^[ \t]*[^\s#]", re.MULTILINE)  # a line that is no comment
CONSOLE = re.compile(r"\s*(>>>|\$)")
READS_INPUT = re.compile(r"\b(raw_)?input\s*\(|\bstdin\b(?!\s*=[^=])|\bopen\(\s*0|\bos\.read\b|\bfileinput\b")
ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)


def extract_program(
    completion: str, stub: str = "", entry_point: str = "", names: Collection[str] = (), reads_input: bool = False
) -> str | None:
    """The last fenced block marked as Python, else the last one without a mark, else the `<answer>`, else all the text.

    Of several blocks it is the last that defines one of the names, or that reads input where the tests have some, so
    that an example of use after the solution is passed over; blocks that do not close come after those that do. What
    comes before the last `</think>` is not looked at. Text that is no Python fails later, in the sandbox. Where the
    prompt is a stub (HumanEval's signature and docstring) and the text found does not define the entry point, it is the
    function's body and continues the stub; without a fence, up to the first line that is not indented.

    Args:
        completion: of the model.
        stub: Python code that the completion may continue, or "".
        entry_point: the name that the program must define for the stub to be left out.
        names: those that the tests want of the program.
        reads_input: whether the tests have standard input.

    Returns:
        The program, or None: there is nothing but white space.
    """
    text = completion.rpartition("</think>")[2]
    wanted = READS_INPUT if reads_input else _definition({*names, entry_point} - {""})
    blocks = fenced_blocks(text)
    answers = [answer for answer in ANSWER.findall(text) if "```" not in answer and "~~~" not in answer]
    if answers and (not blocks or wanted.search(answers[-1])):
        blocks = [Block("python", answers[-1], True)]
    found = _chosen(blocks, wanted) if blocks else text
    found = found.lstrip("\ufeff")
    if not found.strip():
        return None
    if not stub or wanted.search(found):
        return found
    end = None if blocks or not found.lstrip("\n").startswith((" ", "\t")) else UNINDENTED.search(found)
    return stub.rstrip("\n") + "\n" + (found[: end.start()] if end else found)


def _chosen(blocks: list[Block], wanted: re.Pattern[str]) -> str:
    """The content of the best of at least one block."""
    kinds = (("python", True), ("python", False), ("", True), ("", False))
    groups = [[b.content for b in blocks if (b.language, b.closes) == kind] for kind in kinds]
    contents = next(filter(None, groups), [block.content for block in blocks])
    fitting = [content for content in contents if wanted.search(content)]
    code = [content for content in contents if CODE.search(content) and not CONSOLE.match(content)]
    return (fitting or code or contents)[-1]


def _definition(names: Collection[str]) -> re.Pattern[str]:
    """Finds the definition of one of the names at the top level; of none, nothing."""
    words = "|".join(map(re.escape, sorted(names)))
    if not words:
        return re.compile(r"(?!)")
    return re.compile(rf"^((async[ \t]+)?def|class)[ \t]+({words})\b|^({words})[ \t]*[:=](?!=)", re.MULTILINE)
