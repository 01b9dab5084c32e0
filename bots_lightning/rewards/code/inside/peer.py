"""Calls between the grader and the program: each side may ask the other while it waits for an answer."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from typing import Any

from .wire import Adopt, Channel, Export, MalformedError, decode, encode

Operations = Mapping[str, Callable[..., Any]]


class Lost(BaseException):
    """The other side is gone or breaks the protocol. No Exception: a test must not catch it as one that it expects."""


class Peer:
    """One end of a channel.

    The objects of a question keep their rows in its answer, so that a list that was passed and changed changes on the
    side of the caller too, and what is handed back is the object that was passed.

    Args:
        channel: to the other end.
        export: makes rows of what is not plain data.
        adopt: resolves such rows.
        operations: what the other end may ask for.
    """

    def __init__(self, channel: Channel, export: Export, adopt: Adopt, operations: Operations) -> None:
        self.channel, self.export, self.adopt, self.operations = channel, export, adopt, operations
        self.lost = False

    def ask(self, operation: str, *operands: Any) -> Any:
        """The value of an operation at the other end.

        Raises:
            Exception: what the operation raised, as a built-in exception of the same name, or a new class of that name.
            Lost: the other end is gone, now or before.
        """
        if self.lost:
            raise Lost
        objects: list[Any] = []
        question = encode(list(operands), self.export, objects)
        try:
            self.channel.send({"ask": operation, **question})
            answer = self.channel.receive()
            while "ask" in answer:
                self.answer(answer)
                answer = self.channel.receive()
            (value,) = decode(answer, self.adopt, objects)
            names = answer.get("raised")
            error = None if names is None else rebuild(names, value)
        except (EOFError, OSError, MemoryError, MalformedError, ValueError, TypeError, KeyError) as error:
            self.lost = True
            raise Lost from error
        if error is not None:
            raise error
        return value

    def answer(self, question: dict[str, Any]) -> None:
        """Carries out a question of the other end."""
        objects: list[Any] = []
        operands = decode(question, self.adopt, objects)
        raised = {}
        try:
            value = self.operations[question["ask"]](*operands)
        except Lost:
            raise
        except BaseException as error:  # whatever it is, it is sent to the other end
            raised = {"raised": [kind.__name__ for kind in type(error).__mro__]}
            value = str(error)
        self.channel.send({**encode([value], self.export, objects), **raised})


# Classes of exceptions that are not built in and that the test code catches, by name.
_caught: dict[str, type[Exception]] = {}


def rebuild(names: list[str], text: str) -> Exception:
    """An exception of the other side, of a class below all those that this side knows by name.

    StopIteration and the like become RuntimeError: inside of `all(...)` or `map(...)` they would end a test early.

    Args:
        names: of its classes, from itself to `object`.
        text: its message.
    """
    base = next((kind for name in names if (kind := _builtin(name)) is not None), None)
    if base is None or base in (StopIteration, StopAsyncIteration):
        return RuntimeError(f"{names[0]}: {text}")
    own = [_caught[name] for name in names if name in _caught]
    kind = base if names[0] == base.__name__ else type(names[0], (*own, base), {})
    try:
        return kind(text)
    except TypeError:  # UnicodeDecodeError and a few others want more than a text
        return RuntimeError(f"{names[0]}: {text}")


def exception_class(name: str) -> type[Exception]:
    """The class that stands for the program's exceptions of this name."""
    return _caught.setdefault(name, type(name, (Exception,), {}))


def _builtin(name: str) -> type[Exception] | None:
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None
