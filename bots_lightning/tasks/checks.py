"""What makes a task valid; the pool and the file readers share these checks, each with its own way to name a row."""

# Shapes: N tasks.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

# Names a row for an error message: row -> "tasks.jsonl, line 7".
Place = Callable[[int], str]


def check_prompts(prompts: Sequence[Any], place: Place) -> None:
    """Every prompt is a string, or every prompt is a list of chat messages; none is empty.

    Raises:
        ValueError: naming the first row for which that does not hold.
    """
    for row, prompt in enumerate(prompts):
        fault = _prompt_fault(prompt)
        if fault:
            raise ValueError(f"{place(row)}: {fault}")
        if isinstance(prompt, str) != isinstance(prompts[0], str):
            raise ValueError(
                f"{place(row)}: the prompt is {_kind(prompt)}, but that of {place(0)} is {_kind(prompts[0])}; expected "
                "one kind. Write all prompts as strings, or all as lists of {role, content} messages."
            )


def _prompt_fault(prompt: Any) -> str:
    """What is wrong with a prompt and what to do; empty if nothing is."""
    if prompt is None or prompt == [] or (isinstance(prompt, str) and not prompt.strip()):
        return f"the prompt is empty ({prompt!r}). Give the task a prompt or remove it."
    if isinstance(prompt, str):
        return ""
    if not isinstance(prompt, list):
        return f"the prompt is {_kind(prompt)}; expected a string or a list of {{role, content}} messages."
    for number, message in enumerate(prompt, start=1):
        if not isinstance(message, dict):
            return f"message {number} of the prompt is {_kind(message)}; expected an object with role and content."
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                return (
                    f"message {number} of the prompt has {key}={message.get(key)!r}; expected a string. "
                    "Give every message a role and a content."
                )
    if not any(message["content"].strip() for message in prompt):
        return "the prompt is empty: no message has content. Give the task a prompt or remove it."
    return ""


def answer_texts(answers: Sequence[Any], place: Place) -> list[str]:
    """The answers as strings: 42 becomes "42", 0.5 becomes "0.5".

    Raises:
        ValueError: naming the first row whose answer is null or neither string nor number.
    """
    return [_text("answer", answer, place, row) for row, answer in enumerate(answers)]


def id_texts(ids: Sequence[Any], place: Place) -> list[str]:
    """The ids as strings, unique.

    Raises:
        ValueError: an id is null or neither string nor number, or appears twice.
    """
    texts = [_text("id", value, place, row) for row, value in enumerate(ids)]
    check_unique(texts, place)
    return texts


def check_unique(ids: Sequence[str], place: Place) -> None:
    """No id appears twice.

    Raises:
        ValueError: naming the first few that do, with two places each.
    """
    first: dict[str, int] = {}
    repeats: dict[str, tuple[int, int]] = {}
    for row, task in enumerate(ids):
        if first.setdefault(task, row) != row:
            repeats.setdefault(task, (first[task], row))
    if repeats:
        named = [f"{task!r} ({place(a)}; {place(b)})" for task, (a, b) in list(repeats.items())[:3]]
        more = ", …" if len(repeats) > len(named) else ""
        raise ValueError(
            f"{len(repeats)} task ids appear more than once: {', '.join(named)}{more}. Task ids must be unique: remove "
            "the repeated tasks, or give each a different id. (Without an id column, a task's id is the hash of "
            "its prompt and answer.)"
        )


def check_rates(name: str, rates: Sequence[Any], place: Place) -> None:
    """Every reference pass rate is a number in [0, 1]; None and NaN mean unknown.

    Raises:
        ValueError: naming the first row for which that does not hold.
    """
    for row, rate in enumerate(rates):
        if rate is None:
            continue
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise ValueError(f"{place(row)}: {name} is {_kind(rate)} {rate!r}; expected a number in [0, 1] or null.")
        if not (0 <= rate <= 1 or math.isnan(rate)):
            raise ValueError(
                f"{place(row)}: {name}={rate}; expected a pass rate in [0, 1], null if unknown. "
                "Divide counts by their number of attempts and percentages by 100."
            )


def _text(name: str, value: Any, place: Place, row: int) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{place(row)}: the {name} is null. Fill it in or remove the task.")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{place(row)}: the {name} is {_kind(value)} {value!r}; expected a string or a number.")
    return str(value)


def _kind(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")
