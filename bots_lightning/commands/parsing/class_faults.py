"""Explains class paths and paths of functions that cannot be imported or do not fit."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

from bots_lightning.commands.parsing.classes import derived_from, known_classes
from bots_lightning.commands.parsing.extras import how_to_install
from bots_lightning.commands.parsing.foreign_names import FOREIGN_CLASSES
from bots_lightning.commands.parsing.nearest import did_you_mean, nearest
from bots_lightning.commands.parsing.places import Place

NO_ATTRIBUTE = re.compile(r"module '(?P<module>.*)' has no attribute '(?P<name>.*)'")
NO_MODULE = re.compile(r"No module named '(?P<module>.*)'")


def explain_class(place: Place, path: str, base: str | None = None, why: str | None = None) -> str:
    """Explains a class path, or the path of a function, that names nothing of the kind.

    Args:
        place: where it stands.
        path: as given.
        base: the class of which it should be a subclass.
        why: Python's message.
    """
    seen, name = place.with_value(path), path.rpartition(".")[2]
    if path.lower() in ("true", "false"):
        return f"{seen}: expected null, a class path, or the options of the class."
    if here := FOREIGN_CLASSES.get(name.lower()):
        return f"{seen}: {here}."
    if base is not None:
        fitting = derived_from(base)
        few = ", ".join(fitting[:8]) + (", …" if len(fitting) > 8 else "")
        return f"{seen}: not a {base}. Known: {few}." if fitting else f"{seen}: not a {base}."
    if missing := NO_MODULE.search(why or ""):
        return f"{seen}: {_no_module(missing['module'], path)}"
    if missing := NO_ATTRIBUTE.search(why or ""):
        return f"{seen}: {missing['module']} has no {_in_module(missing['module'], missing['name'], path)}"
    if why is not None:
        return f"{seen}: expected something to call, but {why}."
    return f"{seen}: there is no such class{_nearest_class(path)}"


def _nearest_class(path: str) -> str:
    """By the last name alone: modules are rarely misspelt."""
    by_name = {known.rpartition(".")[2]: known for known in known_classes()}
    found = nearest(path.rpartition(".")[2], by_name)
    if found is None:
        return ". Write its whole path: package.module.Class."
    return f"; did you mean {by_name[found]}?"


def _in_module(module: str, name: str, path: str) -> str:
    things = vars(importlib.import_module(module)).items()
    there = [each for each, thing in things if not each.startswith("_") and not inspect.ismodule(thing)]
    hint = did_you_mean(name, there, f"{module}.")
    if path.rpartition(".")[0] == module:
        return name + (hint if hint != "." else _nearest_class(path))
    found = _nearest_class(path)
    return name + (found if found.startswith(";") else hint)


def _no_module(module: str, path: str) -> str:
    if install := how_to_install(module):
        return f"the module {module} is not installed. {install}"
    name = path.rpartition(".")[2].lower()
    if same := next((known for known in known_classes() if known.rpartition(".")[2].lower() == name), None):
        return f"there is no module {module}; did you mean {same}?"
    return (
        f"there is no module {module}. Python looks where packages are installed and in PYTHONPATH: for modules in "
        f"{Path.cwd()}, start with PYTHONPATH=. in front."
    )
