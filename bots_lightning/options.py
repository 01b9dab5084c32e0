"""Checks of options: a name out of a few, a number within its range."""

from __future__ import annotations

import math
from typing import Any, get_args


def check_option(name: str, value: str, allowed: Any) -> None:
    """Checks that an option is one of the values of a `Literal`.

    Args:
        name: of the option, for the error message.
        value: what was given.
        allowed: the `Literal` type.

    Raises:
        ValueError: the value is not allowed.
    """
    if value not in get_args(allowed):
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(map(repr, get_args(allowed)))}.")


def check_numbers(
    low: float, *, above: bool = False, high: float = math.inf, below: bool = False, **options: float | None
) -> None:
    """Checks that numbers are within a range; None is accepted, NaN is not.

    Args:
        low: lower end of the range.
        above: excludes `low` itself.
        high: upper end of the range; infinity by default.
        below: excludes `high` itself; without `high`, numbers must be finite.
        **options: the numbers, by the name of their option.

    Raises:
        ValueError: a number is out of range.
    """
    for name, value in options.items():
        if value is None or (low < value < high) or (value == low and not above) or (value == high and not below):
            continue
        raise ValueError(f"{name}={value}; expected {_range(low, above, high, below)}.")


def _range(low: float, above: bool, high: float, below: bool) -> str:
    """The range in words: "at least 0 and less than 1"."""
    least = f"more than {low:g}" if above else f"at least {low:g}"
    if high == math.inf:
        return f"a finite number, {least}" if below else least
    return f"{least} and {'less than' if below else 'at most'} {high:g}"
