"""Chats and objects that files hold as JSON text, and what is no fault of a text."""

# Shapes: N tasks.

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bots_lightning.tasks import JsonlTasks, ParquetTasks, TaskPool, TaskSource, task_id
from bots_lightning.tasks.texts import check_encoding

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "1+1="}],
    [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2="}],
    [{"content": 'Say "[{".', "role": "user"}],
]
ANSWERS = ["2", "4", "[{"]


def parquet(folder: Path, **columns: Any) -> ParquetTasks:
    pq.write_table(pa.table(columns), folder / "tasks.parquet")
    return ParquetTasks(folder / "tasks.parquet")


def jsonl(folder: Path, **columns: Any) -> JsonlTasks:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return JsonlTasks(folder / "tasks.jsonl")


@pytest.fixture(params=[parquet, jsonl])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """`write(**columns)`: a source with these columns."""
    return lambda **columns: request.param(tmp_path, **columns)


@pytest.mark.parametrize("indent", [None, 1])
def test_chats_as_json_are_chats(write: Any, indent: int | None) -> None:
    source: TaskSource = write(prompt=[json.dumps(chat, indent=indent) for chat in CHATS], answer=ANSWERS)
    pool = source.load()
    assert [task.prompt for task in pool] == CHATS
    assert pool.ids == [task_id(chat, answer) for chat, answer in zip(CHATS, ANSWERS, strict=True)]


def test_texts_that_are_other_json_stay_texts(write: Any) -> None:
    texts = ['[{"name": "Ada"}]', "[1, 2]", '{"role": "user"}', "[]", '[{"role": "user", "content": "x"}] is what?']
    assert [task.prompt for task in write(prompt=texts, answer=list("abcde")).load()] == texts


def test_objects_as_json_are_reached_into_and_stay_text_for_rewards(write: Any) -> None:
    truths = [json.dumps({"style": "rule", "ground_truth": truth}) for truth in ("2", "4")]
    pool = write(prompt=[json.dumps(chat) for chat in CHATS[:2]], reward_model=truths).load()
    assert [task.answer for task in pool] == ["2", "4"]
    assert [task.prompt for task in pool] == CHATS[:2]
    assert [task.columns["reward_model"] for task in pool] == truths


def test_an_answer_may_be_empty_if_there_are_tests(write: Any) -> None:
    source: TaskSource = write(prompt=["f", "g"], answer=["", " "], test_list=[["assert f()"], ["assert g()"]])
    assert [task.answer for task in source.load()] == ["", " "]


def test_a_group_that_is_nan_is_none(tmp_path: Path) -> None:
    pool = jsonl(tmp_path, prompt=["p", "q"], answer=["1", "2"], group=["a", float("nan")]).load()
    assert pool.groups.tolist() == ["a", ""]


def test_a_label_with_a_nul_is_refused_when_it_is_read() -> None:
    rows = [{"id": name, "prompt": "p", "answer": "1", "level": f"a{end}"} for name, end in (("x", ""), ("y", "\0"))]
    features = TaskPool.from_rows(rows).features()
    with pytest.raises(ValueError, match=r"task 'y': the level 'a\\x00' holds a NUL character"):
        features.column("level")


def test_bytes_outside_of_the_rows_are_not_checked() -> None:
    """As where a column is a slice of a larger array."""
    notes = pa.array([b"fine", b"\xe9"], pa.binary()).view(pa.string())
    inside = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), notes)
    check_encoding({"note": pa.chunked_array([inside.slice(0, 1)])}, str)
    with pytest.raises(ValueError, match="1: column 'note' holds text that is not UTF-8"):
        check_encoding({"note": pa.chunked_array([inside])}, str)


# --- messages -----------------------------------------------------------------------------------------------------


def call(name: str, arguments: Any) -> dict[str, Any]:
    calls = [{"type": "function", "function": {"name": name, "arguments": arguments}}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


TOOL_CHATS = [
    [{"role": "user", "content": "1+1="}, call("add", {"a": 1, "b": [1, None]}), {"role": "tool", "content": "2"}],
    [
        {"role": "user", "content": "Where is Ada?"},
        call("find", {"who": {"name": "Ada"}}),
        {"role": "tool", "content": "Here."},
    ],
    [{"role": "user", "content": "And Bob?"}, call("find", {"who": {"age": 3}}), {"role": "tool", "content": "There."}],
    [{"role": "user", "content": "Now?"}, call("now", {}), {"role": "tool", "content": "12:00"}],
]


def test_the_arguments_of_a_tool_call_have_no_keys_of_other_calls(write: Any) -> None:
    pool = write(prompt=TOOL_CHATS, answer=list("abcd")).load()
    assert [task.prompt for task in pool] == TOOL_CHATS
    assert [pool[row].prompt for row in range(4)] == TOOL_CHATS


def test_arguments_as_text_keep_their_nulls(write: Any) -> None:
    chats = [[chat[0], call("f", json.dumps({"x": None, "y": row})), chat[2]] for row, chat in enumerate(TOOL_CHATS)]
    assert [task.prompt for task in write(prompt=chats, answer=list("abcd")).load()] == chats
