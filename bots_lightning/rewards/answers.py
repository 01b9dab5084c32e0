"""Rewards for answers that can be compared with the right one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from bots_lightning.rewards.comparisons import same_normalised

# (given, expected) -> how good the given answer is, from 0 (or False) to 1 (or True).
Comparison = Callable[[str, str], float]
THOUGHT = re.compile(r"[<\[](?P<end>/?)(?:think|thinking|thought|reasoning|THINK)[>\]]")


def last_tagged(text: str, tag: str) -> str | None:
    """The content of the last `<tag>…</tag>` of a text, without white space around it; None if there is none."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return None if start < 0 else text[start + len(tag) + 2 : end].strip()


def after_thinking(text: str) -> str:
    """The text after the last thought (`<think>…</think>`, `[THINK]…[/THINK]`), without white space around it.

    The opening mark may be in the prompt.

    Returns:
        The whole text if there is no thought; "" if a thought has begun and not ended.
    """
    marks = list(THOUGHT.finditer(text))
    if not marks:
        return text.strip()
    return text[marks[-1].end() :].strip() if marks[-1]["end"] else ""


class AnswerMatch:
    """How well the answer in a completion agrees with the task's, from 0 to 1.

    Args:
        compare: grades (given, expected) from 0 to 1, such as `same_text`, `same_normalised`, `same_data` and
            `share_of_cells` of `rewards.comparisons`.
        tag: the answer stands in the last `<tag>…</tag>` behind all thoughts. None: it is all that follows them.
        required: a completion without the tag has no answer and gets 0. Otherwise it is read as if `tag` were None.

    Raises:
        ValueError: `tag` holds more than the name.
    """

    def __init__(
        self, compare: Comparison = same_normalised, tag: str | None = "answer", required: bool = True
    ) -> None:
        if tag is not None and not re.fullmatch(r"[\w.:-]+", tag):
            raise ValueError(f"tag={tag!r}; expected a bare name, e.g. 'answer' for <answer>…</answer>.")
        self.compare = compare
        self.tag = tag
        self.required = required

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Rewards of R completions, each in [0, 1]."""
        given = [self.given(completion) for completion in completions]
        pairs = zip(given, answer, strict=True)
        return [0.0 if text is None else float(self.compare(text, right)) for text, right in pairs]

    def given(self, completion: str) -> str | None:
        """The answer that a completion gives; None if it gives none."""
        text = after_thinking(completion)
        tagged = None if self.tag is None else last_tagged(text, self.tag)
        return text if tagged is None and (self.tag is None or not self.required) else tagged
