"""Explains values that an option does not accept."""

from __future__ import annotations

import ast
import re

from bots_lightning.commands.parsing.foreign_names import FOREIGN_VALUES
from bots_lightning.commands.parsing.nearest import did_you_mean
from bots_lightning.commands.parsing.parse_messages import Fault
from bots_lightning.commands.parsing.places import Place

NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}
NAMES |= {"list": "a list: [a, b]", "dict": "a mapping: {name: value}"}
LITERAL = re.compile(r"(?:typing\.)?Literal(\[.*\])")
CLASS = re.compile(r"<class '(?:.*\.)?(\w+)'>")


def explain_value(fault: Fault, place: Place) -> str:
    """What was given, what is expected, and the nearest of the choices.

    Args:
        fault: with the types that were expected.
        place: where the value stands.
    """
    given = fault.value if fault.value is not None else place.value
    seen = place.with_value(given)
    choices = list(dict.fromkeys(choice for kind in fault.expected for choice in _choices(kind)))
    kinds = [_described(kind) for kind in fault.expected if not LITERAL.match(kind)]
    named = [kind for kind in kinds if kind != "null"] or ([] if choices else kinds)
    listed = [f"one of {', '.join(choices)}"] if choices else []
    expected = " or ".join(dict.fromkeys(named + listed))
    option = place.name.rpartition(".")[2]
    if given is not None and (here := FOREIGN_VALUES.get(option, {}).get(given.lower())):
        return f"{seen}: {here}; expected {expected}."
    hint = did_you_mean(given, choices) if given is not None else "."
    return f"{seen}: expected {expected}{hint}"


def _choices(kind: str) -> list[str]:
    """The choices of a Literal, as text; none for other types."""
    found = LITERAL.match(kind)
    return [str(choice) for choice in ast.literal_eval(found[1])] if found else []


def _described(kind: str) -> str:
    """A type in plain words, if it has any."""
    found = CLASS.fullmatch(kind)
    if found is None:
        plain = kind.removeprefix("typing.").removeprefix("collections.abc.")
        return NAMES.get(plain.partition("[")[0], plain)
    return NAMES.get(found[1], f"a {found[1]}")
