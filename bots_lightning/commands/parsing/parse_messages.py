"""Reads jsonargparse's message, an indented tree of attempts, and finds the one fault that caused it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# Lines that open a level.
KEY = re.compile(r'Parser key "(?P<key>[^"]*)":\s*(?P<rest>.*)')
OWNER = re.compile(r"Problem with given class_path '(?P<owner>[^']*)':")
# Lines that do not describe the fault.
BESIDE = re.compile(
    r"(Does not validate against|Subtypes: |Errors:$|Given value type: |Not a valid subclass of|Subclass types expect"
    r"|a class path \(str\)|a dict with|Expected a path but)"
)
GIVEN = re.compile(r"Given value: (?:NestedArg\(key='[^']*', val=(?P<nested>.*)\)|(?P<value>.*))$")
EXPECTED = re.compile(r"Expected an? (?P<type>.*?)(?:\. Got value: (?P<value>.*))?$")


@dataclass(frozen=True)
class Fault:
    """What is wrong and where.

    Attributes:
        key: where in the config, with dots and without `init_args`; empty if unknown.
        owner: path of the class whose option it is; None for an option of the parser.
        text: the message.
        expected: types one of which the value should have.
        value: what was given, as text.
        depth: level in the tree.
    """

    key: str
    owner: str | None
    text: str
    expected: tuple[str, ...] = ()
    value: str | None = None
    depth: int = 0


def read_message(message: str) -> Fault:
    """Finds the innermost fault of a message; where several types were tried, it has what each of them expected.

    Args:
        message: of a parser.
    """
    faults, given = [], None
    levels: list[tuple[int, str, str]] = []  # indentation, kind, name
    for line in filter(str.strip, message.splitlines()):
        text = line.lstrip(" ")
        indent = len(line) - len(text)
        if text.startswith("- "):
            text = text[2:]
        levels = [level for level in levels if level[0] < indent]
        if key := KEY.match(text):
            levels.append((indent, "key", key["key"]))
            text = key["rest"]
        elif owner := OWNER.match(text):
            levels.append((indent, "owner", owner["owner"]))
            continue
        if found := GIVEN.match(text):
            given = given or found["nested"] or found["value"]
        elif text and not BESIDE.match(text):
            faults.append(_fault(text, levels))
    if not faults:
        return Fault("", None, " ".join(message.split()))
    return _heart(faults, given)


def _fault(text: str, levels: list[tuple[int, str, str]]) -> Fault:
    key = ".".join(name for _, kind, name in levels if kind == "key")
    owner = next((name for _, kind, name in reversed(levels) if kind == "owner"), None)
    found = EXPECTED.match(text)
    if found is None or found["type"].startswith("dot import path"):
        return Fault(key, owner, text, depth=len(levels))
    return Fault(key, owner, text, (found["type"],), found["value"], len(levels))


def _heart(faults: list[Fault], given: str | None) -> Fault:
    """The deepest fault; among equally deep ones, preferably one that is more than an unexpected type."""
    deepest = max(fault.depth for fault in faults)
    level = [fault for fault in faults if fault.depth == deepest]
    told = next((fault for fault in level if not fault.expected), level[0])
    given = None if given is None else given.strip("'")
    if not told.expected:
        return told if told.value is not None else replace(told, value=given)
    expected = tuple(dict.fromkeys(kind for fault in level for kind in fault.expected))
    return replace(told, expected=expected, value=given if told.value is None else told.value)
