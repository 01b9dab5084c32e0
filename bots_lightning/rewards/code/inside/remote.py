"""Objects of the program as the test code sees them: every use is a question to the process where they live.

The answers are the program's, so an object may lie about itself. What it may not do is grade itself: it compares
and computes with plain data only as the plain data that it is (a named tuple, an IntEnum), and is never asked to
contain some. Arithmetic with plain data may give another object, which may have seen an expected value and so never
becomes a number: `abs(f(1) - 41) < 1e-6` holds for numbers only. Packages such as numpy get its items and none of its
attributes, and it takes no part in arithmetic with arrays. Two objects of the program compare as it says, and a
method of it that is called with an expected value may answer as it likes.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

Ask = Callable[..., Any]

# The special names that a program may answer. Others are how libraries let an object take over an operation, such as
# numpy's `__array_wrap__`.
DESCRIPTIVE = {f"__{name}__" for name in ("name", "qualname", "module", "doc", "dict", "annotations", "wrapped", "mro")}


class Remote:
    """Stands for one object.

    Args:
        ask: the program.
        handle: by which it knows the object.
        plain: what the object is as plain data, in a list; empty if it is none.
    """

    __slots__ = ("_ask", "_handle", "_plain")
    __array_ufunc__ = None  # numpy leaves operators to this class, and computes nothing with it

    def __init__(self, ask: Ask, handle: int, plain: list[Any]) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_plain", plain)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the object returns there."""
        return self._ask("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if (name.startswith("__") and name not in DESCRIPTIVE) or _is_asked_by_a_package():
            raise AttributeError(name)
        return self._ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._ask("delattr", self, name)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and self._ask("isinstance", value, self) is True

    def __iter__(self) -> Iterator[Any]:
        iterator = self._ask("iter", self)
        while item := self._ask("next", iterator):
            yield item[0]

    def __next__(self) -> Any:
        for item in self._ask("next", self):
            return item
        raise StopIteration

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("setitem", self, key, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("operator", "getitem", self, key)

    def __delitem__(self, key: Any) -> None:
        self._ask("operator", "delitem", self, key)

    def __round__(self, digits: int | None = None) -> Any:
        return self._ask("round", self, digits)

    def __format__(self, spec: str) -> str:
        return self._ask("format", self, spec)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Remote):
            return self._ask("operator", "eq", self, other) is True
        return any(plain == other for plain in _plain(self))

    def __ne__(self, other: object) -> bool:
        if isinstance(other, Remote):
            return self._ask("operator", "ne", self, other) is True
        return not self == other


class Derived(Remote):
    """What arithmetic with plain data gave: neither a number nor equal to plain data."""

    __slots__ = ()

    def __round__(self, digits: int | None = None) -> Any:
        return _derived("round", super().__round__(digits))

    def __format__(self, spec: str) -> str:
        if spec:
            _derived("format", None)
        return super().__format__(spec)


def _is_asked_by_a_package() -> bool:
    """Whether the attribute is for a package, as numpy's `sum` calls the method of that name; not for the test code."""
    module = str(sys._getframe(2).f_globals.get("__name__")).partition(".")[0]
    return module not in sys.stdlib_module_names and module not in ("tests", "inside")


def _plain(value: Remote) -> list[Any]:
    return [] if isinstance(value, Derived) else value._plain


def _derived(name: str, result: Any) -> Derived:
    """The result as an object that is no number; raises TypeError where it is plain data."""
    if not isinstance(result, Remote):
        raise TypeError(f"{name} of a program's object and plain data gave plain data, which it could have forged")
    return Derived(result._ask, result._handle, [])


def _question(name: str) -> Callable[[Remote], Any]:
    return lambda self: self._ask(name, self)


def _refusal(name: str) -> Callable[[Remote], Any]:
    return lambda self: _derived(name, None)


def _unary(name: str) -> Callable[[Remote], Any]:
    def method(self: Remote) -> Any:
        result = self._ask("operator", name, self)
        return _derived(name, result) if isinstance(self, Derived) else result

    return method


def _binary(name: str, reflected: bool = False) -> Callable[[Remote, Any], Any]:
    def method(self: Remote, other: Any) -> Any:
        known = [] if isinstance(other, Remote) else [*_plain(self)]  # before the program sees the other operand
        if not known and type(other).__module__ == "numpy":
            return _derived(name, None)
        result = self._ask("operator", name, *((other, self) if reflected else (self, other)))
        if isinstance(other, Remote) and not isinstance(self, Derived) and not isinstance(other, Derived):
            return result
        if known and not isinstance(result, Remote):
            operands = (other, known[0]) if reflected else (known[0], other)
            return getattr(operator, name)(*operands)
        return _derived(name, result)

    return method


def _ordering(name: str) -> Callable[[Remote, Any], bool]:
    def method(self: Remote, other: Any) -> bool:
        if isinstance(other, Remote):
            return self._ask("operator", name, self, other) is True
        for plain in _plain(self):
            return bool(getattr(operator, name)(plain, other))
        return NotImplemented

    return method


for _name in ("bool", "len", "str", "repr", "hash", "int", "float", "reversed"):
    setattr(Remote, f"__{_name}__", _question(_name))
for _name in ("bool", "len", "int", "float", "index"):
    setattr(Derived, f"__{_name}__", _refusal(_name))
for _name in ("neg", "pos", "abs", "invert", "index"):
    setattr(Remote, f"__{_name}__", _unary(_name))
for _name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    _operator = f"__{_name}__"
    setattr(Remote, _operator, _binary(_operator))
    setattr(Remote, f"__r{_name}__", _binary(_operator, reflected=True))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _ordering(_name))
