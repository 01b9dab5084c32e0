"""Options that are one of a few words."""

from __future__ import annotations

from typing import Any, get_args


def check_option(name: str, value: str, allowed: Any) -> None:
    """Refuses a word that is none of a `Literal`: misspelt, it would be taken for another.

    Raises:
        ValueError: names the option and what it may be.
    """
    if value not in get_args(allowed):
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(map(repr, get_args(allowed)))}.")
