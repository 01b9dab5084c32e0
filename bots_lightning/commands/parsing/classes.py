"""Classes that a config may name and their options, looked up when something is misspelt."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser

# By name and not imported here: some are slow to load.
PACKAGES = (
    *(f"bots_lightning.{name}" for name in ("algorithms", "beliefs", "data", "quickstart", "rewards", "rollouts")),
    *(f"bots_lightning.{name}" for name in ("selection", "strategies", "tasks")),
    "callbacks",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
)


@cache
def known_classes() -> dict[str, Any]:
    """Classes and functions by their paths: this package's, and Lightning's callbacks and loggers."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) or (inspect.isclass(thing) and not inspect.isabstract(thing)):
                found[f"{package}.{name}"] = thing
    return found


def derived_from(base: str) -> list[str]:
    """Class paths of the known subclasses of a class of this name, without those that have subclasses themselves."""
    known = {path: thing for path, thing in known_classes().items() if inspect.isclass(thing)}
    found = [path for path, kind in known.items() if base in {parent.__name__ for parent in kind.__mro__}]
    bases = {parent for path in found for parent in known[path].__mro__[1:]}
    return [path for path in found if known[path] not in bases]


def look_up(path: str) -> Any:
    """What a dotted path names; None if it cannot be imported."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def options_of(path: str) -> list[str]:
    """Names of the options of a class, as a config has them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(look_up(path))
    return [name for name in option_names(parser) if "." not in name]


def option_names(parser: Any) -> Iterator[str]:
    """Names of the options of a parser, except `…help` and `print_…`."""
    for action in parser._actions:
        if action.option_strings and not action.dest.endswith("help") and "print_" not in action.dest:
            yield action.dest
