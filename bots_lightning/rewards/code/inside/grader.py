"""The trusted end: runs the test code, compares, and writes the verdict. The program runs in another process."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import math
import os
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from . import arrays
from .names import CONSTANTS, LIBRARY, caught, loaded, modules
from .peer import Lost, Peer, exception_class
from .remote import Remote
from .wire import Channel, MalformedError, Row

MODULE = "tests"  # the name of the module in which the test code runs


def run(job: dict[str, Any]) -> None:
    """Writes `{"passed": n}` to standard output.

    Args:
        job: `prelude`, `steps` as [is a test, source], `cases` as [arguments, result], `programs`, which maps the names
            that are the program's in any case to what it calls them, `all_or_nothing`, `tolerance` of floats in calls,
            and the socket `channel`.
    """
    verdict = os.dup(1)
    os.dup2(2, 1)  # what the test code prints is no verdict
    grader = Grader(job["channel"], job["tolerance"], job["cases"])
    grader.prepare(job["prelude"], [source for _, source in job["steps"]], job["programs"])
    passed = grader.count_passed(job["steps"], job["all_or_nothing"])
    os.write(verdict, json.dumps({"passed": passed}).encode())


class Grader:
    """The names of the test code, and the program at the other end.

    Args:
        channel: the socket to the program.
        tolerance: relative and absolute, of floats in `__same__`.
        cases: arguments and results of calls.
    """

    def __init__(self, channel: int, tolerance: float, cases: list[Any]) -> None:
        self.peer = Peer(Channel(channel, channel), self.export, self.adopt, {"callback": self.callback})
        self.callbacks: list[Callable[..., Any]] = []
        self.remotes: dict[int, Remote] = {}
        module = sys.modules[MODULE] = types.ModuleType(MODULE)
        self.names: dict[str, Any] = module.__dict__
        self.names |= {"__cases__": cases, "__same__": lambda actual, expected: _passes(actual, expected, tolerance)}

    def prepare(self, prelude: str, sources: Iterable[str], programs: dict[str, str]) -> None:
        """Runs the prelude and loads the program; what the test code names and nobody defines is the program's."""
        self.names |= CONSTANTS
        exec(prelude, self.names)
        trees = [ast.parse(source) for source in sources]
        for name in programs:
            self.names.pop(name, None)
        self.names["__builtins__"] = {name: kind for name, kind in vars(builtins).items() if name not in programs}
        defined = self.names.keys() | self.names["__builtins__"].keys()
        unknown = sorted({*programs, *(name for tree in trees for name in loaded(tree))} - defined)
        self._define_known(trees, {*unknown} - programs.keys())
        wanted = {name: programs.get(name, name) for name in unknown if name not in self.names}
        shared = [name for name, value in self.names.items() if _is_own(value)]
        try:
            found = {**self.peer.ask("load", sorted({*wanted.values()}), shared)}
            self.names |= {name: found[own] for name, own in wanted.items() if own in found}
        except (Exception, Lost):
            self.peer.lost = True  # a program that does not load passes nothing

    def _define_known(self, trees: list[ast.Module], unknown: set[str]) -> None:
        """Modules, library classes and exceptions, which a program could forge, come from here."""
        for name in sorted(modules(trees, unknown)):
            self.names[name] = importlib.import_module(name)
        for name in sorted(unknown & LIBRARY.keys()):
            self.names[name] = getattr(importlib.import_module(LIBRARY[name]), name)
        for name in sorted((unknown - self.names.keys()) & {name for tree in trees for name in caught(tree)}):
            self.names[name] = exception_class(name)

    def count_passed(self, steps: list[tuple[bool, str]], all_or_nothing: bool) -> int:
        """Of the steps that are tests."""
        passed = 0
        for is_test, source in steps:
            succeeds = not self.peer.lost and self._succeeds(source) and not self.peer.lost
            passed += is_test and succeeds
            if not succeeds and (all_or_nothing or not is_test):
                break
        return passed

    def _succeeds(self, source: str) -> bool:
        try:
            exec(compile(source, "tests.py", "exec"), self.names)
        except BaseException:  # what a program throws may be anything, and every throw is a failed test
            return False
        return True

    def callback(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a function of the test code that was passed to the program."""
        return self.callbacks[number](*args, **kwargs)

    def export(self, value: Any, refer: Callable[[Any], Any]) -> Row:
        """The row of an object that is not plain data: a handle, a record, or a callback."""
        if isinstance(value, Remote):
            return ["remote", value._handle]
        if _is_own(type(value)):
            return ["record", type(value).__name__, [[name, refer(item)] for name, item in vars(value).items()]]
        if callable(value):
            self.callbacks.append(value)
            return ["callback", len(self.callbacks) - 1]
        raise TypeError(f"a {type(value).__name__} cannot be passed to the program")

    def adopt(self, row: Row) -> Any:
        """The object that the program's row means."""
        if row[0] == "callback":
            return self.callbacks[row[1]]
        if row[0] == "record" and _is_own(kind := self.names[row[1]]):
            return object.__new__(kind)
        if row[0] == "remote" and isinstance(row[1], int):
            return self.remotes.setdefault(row[1], Remote(self.peer.ask, row[1], []))
        raise MalformedError(str(row[0]))


def _passes(actual: Any, expected: Any, tolerance: float) -> bool:
    """Whether a call gave the expected result; APPS puts some results into a list."""
    wrapped = isinstance(expected, list) and len(expected) == 1
    return same(actual, expected, tolerance) or (wrapped and same(actual, expected[0], tolerance))


def same(actual: Any, expected: Any, tolerance: float) -> bool:
    """Whether plain data agrees with data from JSON.

    Lists and tuples are alike, floats agree within the tolerance, a bool is never a number, and the keys of a dict are
    compared as the text that JSON makes of them.
    """
    actual = arrays.plain(actual)
    if isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
        pairs = zip(actual, expected, strict=False)
        return len(actual) == len(expected) and all(same(a, e, tolerance) for a, e in pairs)
    if isinstance(actual, dict) and isinstance(expected, dict):
        texts = {_json_key(key): value for key, value in actual.items()}
        agree = len(actual) == len(expected) and texts.keys() == expected.keys()
        return agree and all(same(texts[key], value, tolerance) for key, value in expected.items())
    if isinstance(actual, bool) or isinstance(expected, bool):
        return actual is expected
    if isinstance(expected, float) and isinstance(actual, int | float):
        both_nan = actual != actual and expected != expected
        return both_nan or math.isclose(actual, expected, rel_tol=tolerance, abs_tol=tolerance)
    return bool(actual == expected)


def _json_key(key: Any) -> Any:
    """The text that JSON makes of a key; an object for which it has none is returned unchanged."""
    return json.dumps(key) if key is None or type(key) in (bool, int, float) else key


def _is_own(value: Any) -> bool:
    return isinstance(value, type) and value.__module__ == MODULE
