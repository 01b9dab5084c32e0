"""Reward functions, in TRL's signature: f(prompts, completions, **columns) -> list[float | None]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def exact_match(prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """1 where the completion is the answer, surrounding white space aside; 0 elsewhere."""
    return [float(c.strip() == a.strip()) for c, a in zip(completions, answer, strict=True)]
