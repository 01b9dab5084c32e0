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

from .peer import Lost, Peer, exception_class
from .remote import Remote
from .wire import Channel, MalformedError, Row

MODULE = "tests"  # the name of the module in which the test code runs


def run(job: dict[str, Any]) -> None:
    """Writes `{"passed": n}` to standard output.

    Args:
        job: `prelude`, `steps` as [is a test, source], `programs`, the names that are the program's in any case,
            `all_or_nothing`, `tolerance` of floats in calls, and the socket `channel`.
    """
    verdict = os.dup(1)
    os.dup2(2, 1)  # what the test code prints is no verdict
    judge = Judge(job["channel"], job["tolerance"])
    judge.prepare(job["prelude"], [source for _, source in job["steps"]], job["programs"])
    passed = judge.count_passed(job["steps"], job["all_or_nothing"])
    os.write(verdict, json.dumps({"passed": passed}).encode())


class Judge:
    """The names of the test code, and the program at the other end.

    Args:
        channel: the socket to the program.
        tolerance: relative and absolute, of floats in `__same__`.
    """

    def __init__(self, channel: int, tolerance: float) -> None:
        self.peer = Peer(Channel(channel, channel), self.export, self.adopt, {"callback": self.callback})
        self.callbacks: list[Callable[..., Any]] = []
        self.remotes: dict[int, Remote] = {}
        module = sys.modules[MODULE] = types.ModuleType(MODULE)
        self.names: dict[str, Any] = module.__dict__
        self.names["__same__"] = lambda actual, expected: same(actual, expected, tolerance)

    def prepare(self, prelude: str, sources: Iterable[str], programs: list[str]) -> None:
        """Runs the prelude and loads the program; what the test code names and nobody defines is the program's."""
        exec(prelude, self.names)
        trees = [ast.parse(source) for source in sources]
        for name in programs:
            self.names.pop(name, None)
        self.names["__builtins__"] = {name: kind for name, kind in vars(builtins).items() if name not in programs}
        defined = self.names.keys() | self.names["__builtins__"].keys()
        unknown = sorted({*programs, *(name for tree in trees for name in _loaded(tree))} - defined)
        for name in sorted(_modules(trees, unknown) - set(programs)):
            self.names[name] = importlib.import_module(name)
        for name in sorted(set(unknown) & {name for tree in trees for name in _caught(tree)}):
            self.names[name] = exception_class(name)
        wanted = [name for name in unknown if name not in self.names]
        shared = [name for name, value in self.names.items() if _is_own(value)]
        try:
            found = self.peer.ask("load", wanted, shared)
        except (Exception, Lost):
            self.peer.lost = True  # a program that does not load passes nothing
            return
        self.names |= {name: found[name] for name in wanted if name in found}

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


def same(actual: Any, expected: Any, tolerance: float) -> bool:
    """Whether plain data agrees: lists and tuples alike, floats within the tolerance, a bool never as a number."""
    if isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
        pairs = zip(actual, expected, strict=False)
        return len(actual) == len(expected) and all(same(a, e, tolerance) for a, e in pairs)
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(same(actual[k], e, tolerance) for k, e in expected.items())
    if isinstance(actual, bool) or isinstance(expected, bool):
        return actual is expected
    if isinstance(expected, float) and isinstance(actual, int | float):
        return math.isclose(actual, expected, rel_tol=tolerance, abs_tol=tolerance)
    return bool(actual == expected)


def _is_own(value: Any) -> bool:
    return isinstance(value, type) and value.__module__ == MODULE


def _loaded(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _caught(tree: ast.AST) -> set[str]:
    """Names in `except NAME` and `except (NAME, NAME)`."""
    return {
        node.id
        for handler in ast.walk(tree)
        if isinstance(handler, ast.ExceptHandler) and handler.type is not None
        for node in ast.walk(handler.type)
        if isinstance(node, ast.Name)
    }


def _modules(trees: list[ast.Module], unknown: Iterable[str]) -> set[str]:
    """Modules of the standard library of which the test code uses attributes only, as in `math.isclose`.

    They come from here and not from the program, which could forge them.
    """
    nodes = [node for tree in trees for node in ast.walk(tree)]
    uses = [node.id for node in nodes if isinstance(node, ast.Name)]
    owners = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    attributes = [owner.id for owner in owners if isinstance(owner, ast.Name)]
    standard = sys.stdlib_module_names & set(unknown)
    return {name for name in standard if uses.count(name) == attributes.count(name)}
