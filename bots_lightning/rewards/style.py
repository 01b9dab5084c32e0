"""Rewards for the form of a completion, whatever it answers: its format, its length, its repetitions."""

# Shapes: R completions.

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Protocol

from bots_lightning.options import check_numbers

# One block of thoughts, then one answer, and nothing else.
THINK_ANSWER = r"<think>((?!</?(think|answer)>).)*</think>\s*<answer>((?!</?(think|answer)>).)*</answer>"


class Rewards(Protocol):
    """A reward function, in TRL's signature."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> Sequence[float | None]:
        """Rewards of R completions."""


class FormatMatch:
    """1 where the whole completion has a format, apart from white space around it; 0 elsewhere.

    Args:
        pattern: a regular expression of the whole completion, in which `.` matches line ends too. The default asks for
            `<think>…</think>` and `<answer>…</answer>`, once each and in this order.
    """

    def __init__(self, pattern: str = THINK_ANSWER) -> None:
        self.pattern = re.compile(pattern, re.DOTALL)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float]:
        """Rewards of R completions, each 0 or 1."""
        return [float(self.pattern.fullmatch(completion.strip()) is not None) for completion in completions]


class LengthPenalty:
    """0 up to a length that is free, then falling linearly to −1 at the longest, and −1 beyond.

    In characters; `soft_punish_cache` of the algorithms does the same in tokens, on advantages only.

    Args:
        free_characters: length up to which nothing is taken off.
        max_characters: length from which the penalty is −1.

    Raises:
        ValueError: unless 0 <= free_characters < max_characters.
    """

    def __init__(self, free_characters: int, max_characters: int) -> None:
        if not 0 <= free_characters < max_characters:
            raise ValueError(
                f"free_characters={free_characters}, max_characters={max_characters}; expected 0 <= free < max."
            )
        self.free_characters = free_characters
        self.max_characters = max_characters

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float]:
        """Rewards of R completions, each in [−1, 0]."""
        span = self.max_characters - self.free_characters
        return [-min(max(len(text) - self.free_characters, 0) / span, 1.0) for text in completions]


class CosineLength:
    """A reward that short right and long wrong completions raise (Yeo et al., arXiv:2502.03373).

    r(ℓ) = r_L + (r_0 − r_L)·(1 + cos(πℓ/L))/2 goes from r_0 at length 0 to r_L at length L, with one pair (r_0, r_L)
    for right and one for wrong completions; a completion of L or more gets `exceeded`. The paper counts tokens, this
    characters. Declare `reward_range` as wide as the five values.

    Args:
        grader: a reward function that gives right completions 1, and others less.
        max_characters: L.
        right: (r_0, r_L) of right completions.
        wrong: (r_0, r_L) of all others.
        exceeded: for completions that reach L.

    Raises:
        ValueError: L is less than 1.
    """

    def __init__(
        self,
        grader: Rewards,
        max_characters: int,
        right: tuple[float, float] = (1.0, 0.5),
        wrong: tuple[float, float] = (-1.0, -0.5),
        exceeded: float = -1.0,
    ) -> None:
        check_numbers(1, max_characters=max_characters)
        self.grader = grader
        self.max_characters = max_characters
        self.right, self.wrong, self.exceeded = right, wrong, exceeded

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
        """Rewards of R completions; None where the grader returns None."""
        verdicts = self.grader(prompts=prompts, completions=completions, **columns)
        return [None if v is None else self._reward(v, len(c)) for v, c in zip(verdicts, completions, strict=True)]

    def _reward(self, verdict: float, length: int) -> float:
        if length >= self.max_characters:
            return self.exceeded
        shortest, longest = self.right if verdict >= 1 else self.wrong
        return longest + (shortest - longest) * (1 + math.cos(math.pi * length / self.max_characters)) / 2


class RepetitionPenalty:
    """Minus the share of n-grams of words that repeat an earlier one: 0 without repetitions, towards −1 with many.

    1 − distinct n-grams/n-grams, as in Yeo et al., arXiv:2502.03373, whose penalty counts only repetitions within a
    window. White space separates words; a completion of fewer than n words gets 0.

    Args:
        ngram: n, in words.

    Raises:
        ValueError: n is less than 1.
    """

    def __init__(self, ngram: int = 3) -> None:
        check_numbers(1, ngram=ngram)
        self.ngram = ngram

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float]:
        """Rewards of R completions, each in (−1, 0]."""
        return [-self._repeated(completion.split()) for completion in completions]

    def _repeated(self, words: list[str]) -> float:
        ngrams = [tuple(words[i : i + self.ngram]) for i in range(len(words) - self.ngram + 1)]
        return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
