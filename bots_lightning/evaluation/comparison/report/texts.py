"""Numbers of a comparison as text: values, intervals, deviations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]


def ratio_text(cell: Result) -> str:
    """A ratio as text: value and interval; `≥` and the bound where the value was not reached."""
    bound = cell.get("at_least")
    value = f"≥{bound:.2f}" if bound is not None else number_text(cell["value"], ".2f")
    return f"{value} {interval_text(cell['interval'], '.2f')}" if cell.get("interval") and value != "–" else value


def interval_text(ends: list[float | None] | None, digits: str) -> str:
    """An interval as text, with ∞ for an infinite end; `digits` is a format of Python."""
    if ends is None:
        return "–"
    between = " to " if "+" in digits else "–"
    return between.join(number_text(end, digits, "∞") for end in ends)


def signed_text(value: float | None, ends: list[float | None] | None) -> str:
    """A difference as text, with its sign and its interval."""
    return number_text(value, "+.3f") + (f" ({interval_text(ends, '+.3f')})" if ends else "")


def deviation_text(spread: Result, digits: str) -> str:
    """A mean as text, with the standard deviation over seeds."""
    deviation = "" if spread["std"] is None else f" ±{spread['std']:{digits}}"
    return number_text(spread["mean"], digits) + deviation


def number_text(value: float | None, digits: str, nothing: str = "–") -> str:
    """A number as text; `nothing` where there is none."""
    return nothing if value is None else f"{value:{digits}}"


def seeds_text(described: Result, kind: str = "paired seed") -> str:
    """How many seeds a method or a comparison has."""
    count = len(described["seeds"])
    return f"{count} {kind}{'s' if count != 1 else ''}"
