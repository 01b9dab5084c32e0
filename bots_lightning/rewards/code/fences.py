"""Fenced blocks of Markdown that hold Python, in linear time and without a parser."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

OPENING = re.compile(r"\s*(`{3,}|~{3,})[ \t]*([^`]*)")
LATE_OPENING = re.compile(r".*?(?<!`)(`{3,})((?:python|py)3?)", re.IGNORECASE)  # after other text on its line
PYTHON = re.compile(r"[{.\s]*(?:lang(?:uage)?-)?(?:python|py)3?(?![\w-])|\S+\.py\b", re.IGNORECASE)
# What may hide a fence within a line of Python. A string that is not closed ends with its line.
TOKENS = re.compile(
    r"""(?P<triple>'''|\"\"\")|'(?:\\.|[^'\\])*'?|"(?:\\.|[^"\\])*"?|(?P<comment>\#)|(?<![`~])(?P<fence>`{3,}|~{3,})\s*$""",
    re.VERBOSE,
)


class Fence(NamedTuple):
    """The line that opens a block."""

    mark: str
    info: str
    indent: int


@dataclass
class Block:
    """What a fence encloses.

    Attributes:
        language: "python", another one in lower case, or "".
        content: less the fence's indentation.
        closes: whether the closing fence is there.
    """

    language: str
    content: str
    closes: bool


def fenced_blocks(text: str) -> list[Block]:
    """The blocks in order.

    Fences are those of CommonMark: at least three backticks or tildes, closed by as many or more that are indented by
    at most three more columns. Backticks in strings and comments of Python close nothing. In addition a closing fence
    may stand at the end of a line of code, an opening one for Python after other text, and an opening one for Python
    inside a block ends that block.
    """
    lines = text.split("\n")
    blocks, i, strings = list[Block](), 0, True
    while i < len(lines):
        fence = _opening(lines[i])
        i += 1
        if fence is None:
            continue
        end = _end(lines, i, fence, strings)
        if end is None and strings:  # a string that does not close: from here on there are no strings
            strings = False
            end = _end(lines, i, fence, strings)
        stop = len(lines) if end is None else end
        body = [_dedented(line, fence.indent) for line in lines[i:stop]]
        reopens = end is not None and _opens_python(lines[stop])
        if end is not None and not reopens and (last := lines[stop].rstrip().rstrip(fence.mark[0])).strip():
            body.append(_dedented(last, fence.indent))
        blocks.append(
            Block(_language(fence.info), "".join(line + "\n" for line in body), end is not None and not reopens)
        )
        i = stop + (not reopens)
    return blocks


def _opening(line: str) -> Fence | None:
    if match := OPENING.fullmatch(line):
        return Fence(match[1], match[2].strip(), len(line) - len(line.lstrip()))
    if match := LATE_OPENING.fullmatch(line.rstrip()):
        return Fence(match[1], match[2], 0)
    return None


def _opens_python(line: str) -> bool:
    match = OPENING.fullmatch(line)
    return match is not None and _language(match[2].strip()) == "python"


def _language(info: str) -> str:
    if PYTHON.match(info):
        return "python"
    return info.lower().split()[0] if info else ""


def _end(lines: list[str], start: int, fence: Fence, strings: bool) -> int | None:
    """The line on which the block ends; None if it does not."""
    quote = ""  # of the string that spans lines
    for i in range(start, len(lines)):
        line = lines[i]
        if not strings:
            quote = ""
        if not quote and _opens_python(line):
            return i
        quote, mark = _scan(line, quote)
        deep = not line.strip().strip(fence.mark[0]) and len(line) - len(line.lstrip()) > fence.indent + 3
        if mark.startswith(fence.mark) and not deep:
            return i
    return None


def _scan(line: str, quote: str) -> tuple[str, str]:
    """The string that is open after a line, and the fence at its end, if it is in no string and no comment."""
    position = 0
    while True:
        if quote:
            end = line.find(quote, position)
            if end < 0:
                return quote, ""
            quote, position = "", end + 3
        match = TOKENS.search(line, position)
        if match is None or match["comment"]:
            return "", ""
        if match["fence"]:
            return "", match["fence"]
        quote, position = match["triple"] or "", match.end()


def _dedented(line: str, indent: int) -> str:
    return line[:indent].lstrip() + line[indent:]
