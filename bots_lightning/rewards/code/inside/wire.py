"""Plain data between two processes that do not trust each other, and never pickle.

A message carries a table with one row for each object: `["list", [values]]`, `["dict", [[key, value]]]`, and so on. A
value is None, a bool, a float, a str or a short int itself, or `[i]`, the object in row i. So depth costs no recursion,
and cycles and shared objects stay what they are. What is not plain data goes as a row that only its own side resolves.
"""

from __future__ import annotations

import json
import os
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from . import arrays

MAX_MESSAGE = 16 * 2**20  # bytes
LONGEST_INT = 2**63  # longer ones go as hexadecimal text, which has no limit of digits

Row = list[Any]
Export = Callable[[Any, Callable[[Any], Any]], Row]  # (object, how to refer to its parts) -> row
Adopt = Callable[[Row], Any]

SEQUENCES: dict[str, Any] = {"list": list, "deque": deque, "set": set}
MAPPINGS: dict[str, Any] = {"dict": dict, "Counter": Counter, "OrderedDict": OrderedDict, "defaultdict": defaultdict}
FROZEN: dict[str, Any] = {"tuple": tuple, "frozenset": frozenset}
TEXTS: dict[str, Any] = {"Decimal": Decimal, "Fraction": Fraction}
UNCHANGING = (int, float, str, bytes, tuple, frozenset)
NAMES = {kind: name for table in (SEQUENCES, MAPPINGS, FROZEN, TEXTS) for name, kind in table.items()}


class MalformedError(Exception):
    """A message that follows no rule; the other side is broken or hostile."""


def encode(roots: list[Any], export: Export, objects: list[Any]) -> dict[str, Any]:
    """A message of the roots and whatever they refer to.

    Args:
        roots: the values to send.
        export: makes the row of an object that is not plain data.
        objects: rows that both sides know already, in order; objects found on the way are appended.
    """
    index = {id(value): i for i, value in enumerate(objects)}

    def refer(value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, float, str) or (kind is int and -LONGEST_INT < value < LONGEST_INT):
            return value
        if id(value) not in index:
            index[id(value)] = len(objects)
            objects.append(value)
        return [index[id(value)]]

    references = [refer(root) for root in roots]
    table: list[Row] = []
    while len(table) < len(objects):  # rows refer to further objects, whose rows come later
        table.append(_row(objects[len(table)], refer, export))
    return {"table": table, "roots": references}


def _row(value: Any, refer: Callable[[Any], Any], export: Export) -> Row:
    kind = type(value)
    name = NAMES.get(kind)
    if name in SEQUENCES or name in FROZEN:
        return [name, [refer(item) for item in value]]
    if name in MAPPINGS:
        return [name, [[refer(key), refer(item)] for key, item in value.items()]]
    if name in TEXTS:
        return [name, str(value)]
    if kind is int:
        return ["int", hex(value)]
    if kind in (bytes, bytearray):
        return ["bytes", value.hex()]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if (numbers := arrays.row(value)) is not None:
        return numbers
    if kind in (range, slice):
        return [kind.__name__, [refer(part) for part in (value.start, value.stop, value.step)]]
    return export(value, refer)


def decode(message: dict[str, Any], adopt: Adopt, objects: list[Any]) -> list[Any]:
    """The roots of a message.

    Args:
        message: as of `encode`.
        adopt: resolves rows that are not plain data: `["record", class, attributes]`, which is filled here,
            `["remote", handle]`, followed by what it is as plain data if it is any, and `["callback", number]`.
        objects: what the first rows stand for on this side; their contents become those of the message. The
            further objects are appended.

    Raises:
        MalformedError: the message follows no rule.
    """
    try:
        return _Decoder(message["table"], adopt, objects).values(message["roots"])
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, ImportError, RecursionError) as error:
        raise MalformedError(f"{type(error).__name__}: {error}") from error


class _Decoder:
    """Makes empty lists, dicts and records first, so that anything can refer to them; then tuples; then fills them."""

    def __init__(self, table: list[Row], adopt: Adopt, objects: list[Any]) -> None:
        self.table, self.adopt, self.objects = table, adopt, objects
        known = len(objects)
        objects += [None] * (len(table) - known)
        self.made = [row[0] not in FROZEN and row[0] not in ("range", "slice") for row in table]
        self.made[:known] = [True] * known
        for i in range(known, len(table)):
            if self.made[i]:
                objects[i] = self._shell(table[i])
        for i in range(len(table)):
            self._frozen(i)
        for value, row in zip(objects, table, strict=True):
            self._fill(value, row)

    def values(self, references: list[Any]) -> list[Any]:
        return [self._value(reference) for reference in references]

    def _value(self, reference: Any) -> Any:
        if not isinstance(reference, list):
            return reference
        (i,) = reference
        return self._frozen(i)

    def _shell(self, row: Row) -> Any:
        name = row[0]
        if name == "defaultdict":
            return defaultdict(None)
        if name in SEQUENCES or name in MAPPINGS:
            return (SEQUENCES | MAPPINGS)[name]()
        if name in TEXTS:
            return TEXTS[name](row[1])
        if name == "int":
            return int(row[1], 16)
        if name == "bytes":
            return bytes.fromhex(row[1])
        if name == "complex":
            return complex(row[1], row[2])
        if name in ("array", "number"):
            return arrays.value_of(row)
        return self.adopt(row)

    def _frozen(self, i: int) -> Any:
        if not self.made[i]:
            name, references = self.table[i]
            parts = self.values(references)
            self.objects[i] = FROZEN[name](parts) if name in FROZEN else {"range": range, "slice": slice}[name](*parts)
            self.made[i] = True
        return self.objects[i]

    def _fill(self, value: Any, row: Row) -> None:
        name = row[0]
        if name in SEQUENCES:
            _check_kind(value, SEQUENCES[name])
            items = self.values(row[1])
            value.clear()
            value.update(items) if name == "set" else value.extend(items)
        elif name in MAPPINGS:
            _check_kind(value, MAPPINGS[name])
            pairs = [(self._value(key), self._value(item)) for key, item in row[1]]
            value.clear()
            for key, item in pairs:
                value[key] = item
        elif name == "array":
            arrays.fill(value, row)
        elif name == "record":
            attributes = {key: self._value(item) for key, item in row[2]}
            if any(callable(getattr(type(value), key, None)) for key in attributes):
                raise ValueError(f"attributes {sorted(attributes)} hide methods of {type(value).__name__}")
            value.__dict__.clear()
            value.__dict__.update(attributes)
        elif name == "remote" and row[2:] and not (value._plain and isinstance(value._plain[0], UNCHANGING)):
            value._plain[:] = self.values(row[2:])


def _check_kind(value: Any, kind: type) -> None:
    if type(value) is not kind:
        raise TypeError(f"a {kind.__name__} for what was a {type(value).__name__}")


class Channel:
    """Messages over a connected socket or pipe, each with its length in front.

    Args:
        reader: the file descriptor to read from.
        writer: the one to write to.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer = reader, writer

    def send(self, message: dict[str, Any]) -> None:
        """Blocks until the message is written."""
        body = json.dumps(message).encode()
        data = memoryview(len(body).to_bytes(8, "big") + body)
        while data:
            data = data[os.write(self.writer, data) :]

    def receive(self) -> dict[str, Any]:
        """Blocks until a message has come.

        Raises:
            EOFError: the other side is gone.
            MalformedError: what came is no message.
        """
        length = int.from_bytes(self._read(8), "big")
        if length > MAX_MESSAGE:
            raise MalformedError(f"a message of {length} bytes; expected at most {MAX_MESSAGE}")
        try:
            message = json.loads(self._read(length))
        except (ValueError, RecursionError) as error:
            raise MalformedError(str(error)) from error
        if not isinstance(message, dict):
            raise MalformedError(f"a {type(message).__name__}; expected an object")
        return message

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = os.read(self.reader, min(length - len(data), 2**20))
            if not part:
                raise EOFError
            data += part
        return bytes(data)
