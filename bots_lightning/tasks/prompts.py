"""Columns of prompts as Arrow data: validity, length, and conversion to chats."""

# Shapes: N prompts, M messages of all prompts.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

ROLES = ("system", "user", "assistant", "tool")
PLACEHOLDER = "{prompt}"

# Matches text with a character that is certainly not white space: printable ASCII, or beyond U+3000, the last space.
_SURELY_TEXT = r"[!-~\x{3001}-\x{10FFFF}]"

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def prompt_tokens(tokenizer: Any, prompt: Any) -> list[int]:
    """The tokens of a prompt, as the policy reads them.

    Args:
        tokenizer: of transformers.
        prompt: a string, to which the tokenizer adds its first special token unless the string begins with it; or
            chat messages, to which the tokenizer's chat template is applied, which writes all special tokens itself.

    Returns:
        Token ids.
    """
    if not isinstance(prompt, str):
        chat = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
        return chat["input_ids"]
    first, last = tokenizer.bos_token, tokenizer.eos_token
    rendered = bool(first) and prompt.startswith(first)  # such as by a chat template
    tokens = tokenizer(prompt, add_special_tokens=not rendered)["input_ids"]
    ended = bool(last) and tokens[-1:] == [tokenizer.eos_token_id] and not prompt.endswith(last)
    return tokens[:-1] if ended else tokens  # some tokenizers add an end token, but a prompt is continued


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_chat(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists of messages with the string fields role and content."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    return all(name in fields and is_text(fields[name]) for name in ("role", "content"))


def suspects(prompts: pa.ChunkedArray) -> IntArray:
    """Positions of the prompts that may be invalid; all others certainly are not empty and can be answered."""
    return np.flatnonzero(~_by_chunk(_surely_valid, prompts, np.dtype(np.bool_)))


def characters(prompts: pa.ChunkedArray) -> IntArray:
    """Number of characters of each prompt, (N,), summed over its messages; 0 for null.

    Args:
        prompts: N strings or chats.
    """
    return _by_chunk(_characters, plain(prompts), np.dtype(np.int64))


def plain(prompts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Converts valid prompts of other Arrow types (fixed-size lists, views, …) to strings or lists of messages."""
    if is_text(prompts.type) or is_chat(prompts.type):
        return prompts
    return pa.chunked_array([chunk.to_pylist() for chunk in prompts.chunks])


def as_prompt(value: Any) -> Any:
    """A valid prompt as Python data, its messages without null fields, since chat templates test which fields exist.

    Arrow gives every object of a column the keys of all others, at any depth: the arguments of one tool call get those
    of every tool, as nulls. Nulls of the file cannot be distinguished from these and are removed too, except in lists.
    Arguments given as JSON text, as by OpenAI, do not change.

    Args:
        value: a string or a list of messages.
    """
    return value if isinstance(value, str) else [_without_null_keys(message) for message in value]


def _without_null_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null_keys(item) for key, item in value.items() if item is not None}
    return [_without_null_keys(item) for item in value] if isinstance(value, list) else value


def fill_template(prompts: pa.ChunkedArray, template: str) -> pa.ChunkedArray:
    """Inserts prompts into a template.

    Args:
        prompts: N strings.
        template: text with {prompt} in it once.
    """
    before, after, between = (pa.scalar(text, prompts.type) for text in (*template.split(PLACEHOLDER), ""))
    return pc.binary_join_element_wise(before, prompts, after, between)


def as_chats(prompts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Converts strings to chats of one user message."""
    return _chunks(_one_message, prompts)


@dataclass(frozen=True)
class Example:
    """A question with its answer, shown before each task's own question.

    Attributes:
        prompt: of the user.
        answer: of the assistant.
    """

    prompt: str
    answer: str


def with_examples(chats: pa.ChunkedArray, examples: Sequence[Example]) -> pa.ChunkedArray:
    """Puts examples before the first message of chats, behind a system message.

    Args:
        chats: N chats.
        examples: each becomes a message of the user and one of the assistant.
    """
    shown = [
        {"role": role, "content": text}
        for example in examples
        for role, text in (("user", example.prompt), ("assistant", example.answer))
    ]
    return _chunks(lambda chunk: _shown(chunk, shown), chats)


def opened(chats: pa.ChunkedArray, system_prompt: str | None, examples: Sequence[Example]) -> pa.ChunkedArray:
    """Chats with a system prompt and examples, if there are any; see `with_system_prompt` and `with_examples`."""
    shown = with_examples(chats, examples) if examples else chats
    return shown if system_prompt is None else with_system_prompt(shown, system_prompt)


def chats_of(prompts: Sequence[str], system_prompt: str | None, examples: Sequence[Example]) -> list[Any]:
    """Strings as chats; see `opened`."""
    chats = opened(as_chats(pa.chunked_array([pa.array(prompts, pa.string())])), system_prompt, examples)
    return chats.to_pylist()


def with_system_prompt(chats: pa.ChunkedArray, text: str) -> pa.ChunkedArray:
    """Adds a system message to chats, in place of an existing one.

    Args:
        chats: N chats.
        text: content of the system message.
    """
    return _chunks(lambda chunk: _opened(chunk, text), chats)


def _by_chunk(function: Callable[[pa.Array], Any], column: pa.ChunkedArray, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *(function(chunk) for chunk in column.chunks)]).astype(kind)


def _chunks(function: Callable[[pa.Array], pa.Array], column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([function(chunk) for chunk in column.chunks])


def _mask(array: pa.Array) -> BoolArray:
    """Arrow booleans as numpy's, null as False."""
    return pc.fill_null(array, False).to_numpy(zero_copy_only=False)


def _messages(chats: pa.Array) -> tuple[IntArray, pa.StructArray]:
    """Offsets of each chat's messages, (N + 1,), and the M messages."""
    offsets = chats.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], chats.values.slice(offsets[0], offsets[-1] - offsets[0])


def _sums(values: npt.NDArray[Any], offsets: IntArray) -> IntArray:
    """Sums values, (M,), over each chat, (N,)."""
    running = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.diff(running[offsets])


def _surely_valid(prompts: pa.Array) -> BoolArray:
    if is_text(prompts.type):
        return _mask(pc.match_substring_regex(prompts, _SURELY_TEXT))
    valid = np.zeros(len(prompts), dtype=np.bool_)
    if not is_chat(prompts.type):
        return valid
    offsets, messages = _messages(prompts)
    role, content = pc.struct_field(messages, "role"), pc.struct_field(messages, "content")
    complete = _mask(pc.is_in(role, pa.array(ROLES, role.type))) & _mask(content.is_valid())
    text = _mask(pc.match_substring_regex(content, _SURELY_TEXT))
    filled = _mask(prompts.is_valid()) & (np.diff(offsets) > 0)
    valid[filled] = ~_mask(pc.equal(role, "assistant"))[offsets[1:][filled] - 1]
    return valid & (_sums(~complete, offsets) == 0) & (_sums(text, offsets) > 0)


def _characters(prompts: pa.Array) -> IntArray:
    if is_text(prompts.type):
        return pc.fill_null(pc.utf8_length(prompts), 0).to_numpy(zero_copy_only=False)
    offsets, messages = _messages(prompts)
    return _sums(_characters(pc.struct_field(messages, "content")), offsets) * _mask(prompts.is_valid())


def _one_message(prompts: pa.Array) -> pa.ListArray:
    roles = pa.repeat(pa.scalar("user"), len(prompts))
    messages = pa.StructArray.from_arrays([roles, prompts], names=["role", "content"])
    return pa.ListArray.from_arrays(pa.array(np.arange(len(prompts) + 1), pa.int32()), messages)


def _shown(chats: pa.Array, examples: list[dict[str, str]]) -> pa.Array:
    """Puts messages before each chat, behind its system message if it begins with one."""
    found = []
    for chat in chats.to_pylist():
        begin = int(bool(chat) and chat[0]["role"] == "system")
        found.append([*chat[:begin], *examples, *chat[begin:]])
    return pa.array(found, chats.type)


def _opened(chats: pa.Array, text: str) -> pa.Array:
    """Puts the system message before each chat, whose messages are gathered without a system message of their own."""
    offsets, messages = _messages(chats)
    system = pa.array([{"role": "system", "content": text}], messages.type)
    own = np.ones(len(messages), dtype=np.bool_)
    starts = offsets[:-1][np.diff(offsets) > 0]
    own[starts] = ~_mask(pc.equal(pc.struct_field(messages, "role"), "system"))[starts]
    ends = np.concatenate([[0], np.cumsum(_sums(own, offsets))])
    taken = np.insert(1 + np.flatnonzero(own), ends[:-1], 0)  # 0 is the system message
    kind, width = (pa.LargeListArray, pa.int64()) if pa.types.is_large_list(chats.type) else (pa.ListArray, pa.int32())
    together = pa.concat_arrays([system, messages]).take(pa.array(taken))
    return kind.from_arrays(pa.array(ends + np.arange(len(ends)), width), together)
