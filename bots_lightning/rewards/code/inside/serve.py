"""A program that answers calls: the untrusted end, where nothing is secret and nothing decides the verdict."""

from __future__ import annotations

import operator
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from .peer import Peer
from .wire import Channel, MalformedError, Row

# What a subclass of these is as plain data, so that a named tuple equals a tuple.
PLAIN = (int, float, str, bytes, tuple, list, dict, set, frozenset)


def run(job: dict[str, Any]) -> None:
    """Serves `job["sources"]`, run one after the other, on the socket `job["channel"]` until the grader hangs up."""
    os.dup2(2, 1)  # nobody reads what it prints
    program = Program(job["sources"])
    peer = Peer(Channel(job["channel"], job["channel"]), program.export, program.adopt, program.operations())
    program.ask = peer.ask
    while True:
        peer.answer(peer.channel.receive())


class Program:
    """The program's module, and the objects of it that the grader holds on to.

    Args:
        sources: Python code; one after the other, so that each may begin with `from __future__ import …`.
    """

    ask: Callable[..., Any]

    def __init__(self, sources: list[str]) -> None:
        self.sources = sources
        self.module = types.ModuleType("solution")
        self.module.__file__ = "solution.py"
        self.held: list[Any] = []
        self.handles: dict[int, int] = {}
        self.shared: set[str] = set()

    def operations(self) -> dict[str, Callable[..., Any]]:
        """What the grader may ask for, by name."""
        return {
            "load": self.load,
            "call": lambda function, args, kwargs: function(*args, **kwargs),
            "next": _next,
            "getattr": getattr,
            "setattr": setattr,
            "delattr": delattr,
            "isinstance": isinstance,
            "setitem": operator.setitem,
            "operator": lambda name, *operands: getattr(operator, name)(*operands),
            **{kind.__name__: kind for kind in (bool, int, float, str)},
            **{function.__name__: function for function in (iter, len, repr, hash, reversed, round, format)},
        }

    def load(self, names: list[str], shared: list[str]) -> dict[str, Any]:
        """Runs the program and gives those of the names that it defines.

        Args:
            names: to look up.
            shared: classes whose instances travel as records.
        """
        self.shared |= set(shared)
        sys.modules["solution"] = self.module
        for source in self.sources:  # annotations stay text, as in this file: `List` needs no import
            exec(compile(source, "solution.py", "exec"), self.module.__dict__)
        return {name: self.module.__dict__[name] for name in names if name in self.module.__dict__}

    def export(self, value: Any, refer: Callable[[Any], Any]) -> Row:
        """The row of an object that is not plain data: a callback, a record, or a handle."""
        if type(value) is Callback:
            return ["callback", value.number]
        kind = type(value)
        if kind.__name__ in self.shared and isinstance(getattr(value, "__dict__", None), dict):
            return ["record", kind.__name__, [[name, refer(item)] for name, item in vars(value).items()]]
        if id(value) not in self.handles:
            self.handles[id(value)] = len(self.held)
            self.held.append(value)
        plain = [refer(_as(base, value)) for base in PLAIN if isinstance(value, base)]
        return ["remote", self.handles[id(value)], *plain[:1]]

    def adopt(self, row: Row) -> Any:
        """The object that the grader's row means."""
        if row[0] == "remote":
            return self.held[row[1]]
        if row[0] == "callback":
            return Callback(row[1], self)
        if row[0] == "record":
            self.shared.add(row[1])
            kind = self.module.__dict__.get(row[1])
            return object.__new__(kind if isinstance(kind, type) else type(row[1], (), {}))
        raise MalformedError(row[0])


def _next(iterator: Any) -> list[Any]:
    """The next item in a list, or none: StopIteration does not travel."""
    try:
        return [next(iterator)]
    except StopIteration:
        return []


def _as(base: type, value: Any) -> Any:
    return str.__str__(value) if base is str else base(value)


class Callback:
    """A function of the test code, called where it lives.

    Args:
        number: by which the grader knows it.
        program: asks the grader.
    """

    def __init__(self, number: int, program: Program) -> None:
        self.number, self.program = number, program

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns there."""
        return self.program.ask("callback", self.number, args, kwargs)
