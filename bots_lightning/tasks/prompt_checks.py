"""Checks of prompts."""

from __future__ import annotations

from collections.abc import Iterable
from reprlib import repr as short
from typing import Any

import pyarrow as pa

from bots_lightning.tasks.arrays import Column, is_null, kind_of, values
from bots_lightning.tasks.places import Place
from bots_lightning.tasks.prompts import ROLES, suspects


def check_prompts(prompts: Column, place: Place) -> None:
    """Checks that all prompts are strings or all are chats, and that none is empty or ends with an answer.

    Args:
        prompts: N strings or lists of messages.
        place: describes where a row comes from.

    Raises:
        ValueError: names the first row that is not valid.
    """
    first = next(values(prompts), None)
    rows: Iterable[tuple[int, Any]] = enumerate(prompts)
    if isinstance(prompts, pa.ChunkedArray):
        rows = ((row, prompts[row].as_py()) for row in suspects(prompts).tolist())  # `take` would copy the column
    for row, prompt in rows:
        fault = _prompt_fault(prompt)
        if fault:
            raise ValueError(f"{place(row)}: {fault}")
        if isinstance(prompt, str) != isinstance(first, str):
            raise ValueError(
                f"{place(row)}: the prompt is {kind_of(prompt)}, but that of {place(0)} is {kind_of(first)}; expected "
                "one kind. Write all prompts as strings, or all as lists of {role, content} messages."
            )


def _prompt_fault(prompt: Any) -> str:
    """The fault of a prompt and its remedy; "" if it is valid."""
    if is_null(prompt) or prompt == [] or (isinstance(prompt, str) and not prompt.strip()):
        return f"the prompt is empty ({prompt!r}). Give the task a prompt or remove it."
    if isinstance(prompt, str):
        return ""
    if not isinstance(prompt, list):
        return (
            f"the prompt is {kind_of(prompt)}; expected a string or a list of {{role, content}} messages. "
            "Rewrite it, or name another `prompt_column`."
        )
    fault = next(filter(None, (_message_fault(number, message) for number, message in enumerate(prompt, start=1))), "")
    if fault:
        return fault
    if not any(message["content"].strip() for message in prompt):
        return "the prompt is empty: no message has content. Give the task a prompt or remove it."
    if prompt[-1]["role"] == "assistant":
        return "the last message is the assistant's, so that there is nothing to answer. End the prompt with a user's."
    return ""


def _message_fault(number: int, message: Any) -> str:
    """The fault of a message and its remedy; "" if it is valid."""
    if not isinstance(message, dict):
        return (
            f"message {number} of the prompt is {kind_of(message)}; expected an object with role and content. "
            'Write it as {"role": "user", "content": …}.'
        )
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            return (
                f"message {number} of the prompt has {key}={short(message.get(key))}; expected a string. "
                "Give every message a role and a content."
            )
    if message["role"] not in ROLES:
        return f"message {number} of the prompt has role={message['role']!r}; use one of {', '.join(ROLES)}."
    return ""
