"""One task: a prompt, its answer and further columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

Prompt = str | list[dict[str, str]]


def task_id(prompt: Prompt, answer: str) -> str:
    """The id of a task that has none of its own: hash of its prompt and answer, 16 hex characters.

    Args:
        prompt: a string, or chat messages.
        answer: as text.
    """
    if isinstance(prompt, str):
        asked = quoted(prompt)
    else:
        messages = (quoted(message["role"]) + ", " + quoted(message["content"]) for message in prompt)
        asked = f"[[{'], ['.join(messages)}]]" if prompt else "[]"
    return sha256(f"[{asked}, {quoted(answer)}]".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        id: identifies the task across runs and files.
        prompt: a string, or chat messages with `role` and `content`.
        answer: with which reward functions compare completions.
        group: domain or data source; empty if the pool has none.
        columns: all other columns of the row, by name, for reward functions.
    """

    id: str
    prompt: Prompt
    answer: str
    group: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
