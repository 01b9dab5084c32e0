"""Columns of prompts as Arrow data: each function against a plain loop over Python objects."""

# Shapes: N prompts.

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.tasks import Example, JsonlTasks, TaskPool, task_id
from bots_lightning.tasks.prompt_checks import check_prompts
from bots_lightning.tasks.prompts import as_chats, characters, fill_template, suspects, with_system_prompt

SPACE = st.text(alphabet=" \t\n\x1c\x1f\x85\xa0\u2003\u3000")
TEXT = SPACE | st.text(max_size=5) | st.sampled_from(["x", "漢", "é", "\u200b"])
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "critic", None])
MESSAGES = st.fixed_dictionaries({"role": ROLES, "content": st.none() | TEXT})
CHATS = st.none() | st.lists(st.none() | MESSAGES, max_size=4)
VALID_CHATS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": TEXT}), max_size=4
)
STRUCT = pa.struct([("role", pa.string()), ("content", pa.string())])
LISTS = st.sampled_from([pa.list_(STRUCT), pa.large_list(STRUCT)])


def chunked(prompts: list[Any], kind: pa.DataType, cut: int) -> pa.ChunkedArray:
    """A column of two chunks, the second a slice that does not start at its buffers' beginning."""
    whole = pa.array(prompts, kind)
    return pa.chunked_array([whole.slice(0, cut), whole.slice(cut)], kind)


def is_faulty(prompt: Any) -> bool:
    try:
        check_prompts([prompt], str)
    except ValueError:
        return True
    return False


@given(st.lists(st.none() | TEXT, max_size=6), st.sampled_from([pa.string(), pa.large_string()]), st.integers(0, 6))
def test_every_faulty_string_is_a_suspect(prompts: list[Any], kind: pa.DataType, cut: int) -> None:
    assert {i for i, prompt in enumerate(prompts) if is_faulty(prompt)} <= set(
        suspects(chunked(prompts, kind, cut)).tolist()
    )


@given(st.lists(CHATS, max_size=6), LISTS, st.integers(0, 6))
def test_every_faulty_chat_is_a_suspect(prompts: list[Any], kind: pa.DataType, cut: int) -> None:
    assert {i for i, prompt in enumerate(prompts) if is_faulty(prompt)} <= set(
        suspects(chunked(prompts, kind, cut)).tolist()
    )


def test_valid_prompts_are_not_suspects() -> None:
    """Else the check would be right but slow."""
    assert suspects(pa.chunked_array([["What is 1+1?", "1+1は?"], ["漢字"]])).tolist() == []
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "漢字"}]
    assert suspects(pa.chunked_array([[chat, chat[1:]], [chat]])).tolist() == []
    assert suspects(pa.chunked_array([["é", "e"]])).tolist() == [0]  # is checked closely, and valid


@given(st.lists(CHATS, max_size=6), LISTS, st.integers(0, 6))
def test_a_column_and_its_python_values_have_the_same_first_fault(
    prompts: list[Any], kind: pa.DataType, cut: int
) -> None:
    def fault(column: Any) -> str:
        try:
            check_prompts(column, str)
        except ValueError as error:
            return str(error)
        return ""

    assert fault(chunked(prompts, kind, cut)) == fault(prompts)


@given(st.lists(VALID_CHATS, max_size=6), LISTS, st.integers(0, 6))
def test_a_chat_has_the_characters_of_all_its_messages(prompts: list[Any], kind: pa.DataType, cut: int) -> None:
    expected = [sum(len(message["content"]) for message in prompt) for prompt in prompts]
    assert characters(chunked(prompts, kind, cut)).tolist() == expected


@given(st.lists(VALID_CHATS, max_size=6), LISTS, st.integers(0, 6))
def test_a_system_prompt_opens_every_chat(prompts: list[Any], kind: pa.DataType, cut: int) -> None:
    system = {"role": "system", "content": "Compute."}
    expected = [[system, *(prompt[1:] if prompt and prompt[0]["role"] == "system" else prompt)] for prompt in prompts]
    assert with_system_prompt(chunked(prompts, kind, cut), "Compute.").to_pylist() == expected


@given(st.lists(TEXT, max_size=6), st.sampled_from([pa.string(), pa.large_string()]), st.integers(0, 6))
def test_strings_in_a_template_and_as_chats(prompts: list[str], kind: pa.DataType, cut: int) -> None:
    column = chunked(prompts, kind, cut)
    filled = fill_template(column, "Q: {prompt}\nA: \\boxed{}")
    assert filled.to_pylist() == [f"Q: {prompt}\nA: \\boxed{{}}" for prompt in prompts]
    assert as_chats(column).to_pylist() == [[{"role": "user", "content": prompt}] for prompt in prompts]


def test_messages_keep_their_other_fields_behind_a_system_prompt() -> None:
    chat = [{"role": "user", "content": "1+1=", "name": "Ada"}]
    opened = with_system_prompt(pa.chunked_array([[chat]]), "Compute.").to_pylist()
    assert opened == [[{"role": "system", "content": "Compute.", "name": None}, *chat]]


def test_a_message_has_no_fields_of_other_messages() -> None:
    """Chat templates ask whether a message has tool_calls; Arrow gives every message those of any."""
    chats = [[{"role": "user", "content": "1", "tool_calls": [{"name": "add"}]}], [{"role": "user", "content": "2"}]]
    pool = TaskPool.from_rows([{"id": chat[0]["content"], "prompt": chat, "answer": ""} for chat in chats])
    assert [task.prompt for task in pool] == chats


def test_fixed_lists_of_messages_are_chats_too() -> None:
    prompts = pa.array([[{"role": "user", "content": "1+1="}]], pa.list_(STRUCT, 1))
    pool = TaskPool(pa.table({"id": ["a"], "prompt": prompts, "answer": ["2"]}))
    assert pool.features().column("log_prompt_length")[0] == pytest.approx(1.3862943611198906)  # ln 4


# --- the options of a source ----------------------------------------------------------------------------------------


def source_of(folder: Path, prompt: Any, **options: Any) -> JsonlTasks:
    path = folder / "tasks.jsonl"
    path.write_text(json.dumps({"prompt": prompt, "answer": "2"}))
    return JsonlTasks(path, **options)


USER, SYSTEM = {"role": "user", "content": "1+1="}, {"role": "system", "content": "Compute."}
SHOWN = [{"role": "user", "content": "3+4="}, {"role": "assistant", "content": "7"}]
GUESS = {"role": "system", "content": "Guess."}
EXAMPLES = [Example("3+4=", "7")]


@pytest.mark.parametrize(
    ("prompt", "options", "expected"),
    [
        ("1+1=", {"chat": True}, [USER]),
        ([USER], {"chat": True}, [USER]),
        ("1+1=", {"system_prompt": "Compute."}, [SYSTEM, USER]),
        ([USER], {"system_prompt": "Compute."}, [SYSTEM, USER]),
        ([{"role": "system", "content": "Guess."}, USER], {"system_prompt": "Compute."}, [SYSTEM, USER]),
        ("1+1=", {"prompt_template": "Q: {prompt} A: {}"}, "Q: 1+1= A: {}"),
        ("1", {"prompt_template": "{prompt}+1=", "system_prompt": "Compute."}, [SYSTEM, USER]),
        ("1+1=", {"examples": EXAMPLES}, [*SHOWN, USER]),
        ([USER], {"examples": EXAMPLES * 2}, [*SHOWN, *SHOWN, USER]),
        ([SYSTEM, USER], {"examples": EXAMPLES}, [SYSTEM, *SHOWN, USER]),
        ([SYSTEM, USER], {"examples": EXAMPLES, "system_prompt": "Guess."}, [GUESS, *SHOWN, USER]),
    ],
)
def test_prompts_take_the_shape_that_is_asked_for(
    prompt: Any, options: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    task = source_of(tmp_path, prompt, **options).load()[0]
    assert task.prompt == expected
    assert task.id == task_id(prompt, "2")  # of the row, without what is added to its prompt


def test_templates_need_strings_and_one_placeholder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tasks\.jsonl: prompt_template needs prompts that are strings"):
        source_of(tmp_path, [USER], prompt_template="Q: {prompt}").load()
    for template in ("Q:", "{prompt} {prompt}"):
        with pytest.raises(ValueError, match=r"expected a text with \{prompt\} in it, once"):
            source_of(tmp_path, "1+1=", prompt_template=template)
