"""Reward functions, in TRL's signature: f(prompts, completions, **columns) -> list[float | None]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def exact_match(prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """Rewards completions that are the answer, apart from white space around it.

    Args:
        prompts: not used.
        completions: R texts.
        answer: R answers.

    Returns:
        R rewards, 1 or 0.
    """
    return [float(c.strip() == a.strip()) for c, a in zip(completions, answer, strict=True)]
