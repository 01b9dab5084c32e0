"""Options: words of a few, and numbers within bounds."""

from __future__ import annotations

import math
from typing import Any, get_args


def check_option(name: str, value: str, allowed: Any) -> None:
    """Refuses a word that is none of a `Literal`: misspelt, it would be taken for another.

    Raises:
        ValueError: names the option and what it may be.
    """
    if value not in get_args(allowed):
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(map(repr, get_args(allowed)))}.")


def check_numbers(low: float, *, above: bool = False, high: float = math.inf, **options: float | None) -> None:
    """Refuses numbers out of bounds, by name; None is no number and passes.

    Args:
        low: the least that is right.
        above: whether `low` itself is wrong.
        high: the most that is right.
        **options: the numbers.

    Raises:
        ValueError: names the option, what was seen and what is right.
    """
    for name, value in options.items():
        if value is None or (low < value <= high) or (value == low and not above):
            continue
        least = f"more than {low:g}" if above else f"at least {low:g}"
        raise ValueError(f"{name}={value}; expected {least}" + (f" and at most {high:g}." if high < math.inf else "."))
