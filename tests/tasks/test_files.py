"""A file of tasks becomes a pool; errors name the row."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bots_lightning.tasks import JsonlTasks, ParquetTasks, TaskPool, TaskSource, task_id

ROWS: list[dict[str, Any]] = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2*3=", "answer": "6"}]
CHAT = [{"role": "user", "content": "1+1="}]


def jsonl(folder: Path, rows: Sequence[Any], **options: Any) -> JsonlTasks:
    """A source of rows; a row that is a string is written unchanged."""
    path = folder / "sums.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return JsonlTasks(path, **options)


def parquet(folder: Path, rows: Sequence[Any], **options: Any) -> ParquetTasks:
    path = folder / "sums.parquet"
    pq.write_table(
        pa.table({name: [row.get(name) for row in rows] for name in dict.fromkeys(k for r in rows for k in r)}), path
    )
    return ParquetTasks(path, **options)


BOTH = pytest.mark.parametrize("source", [jsonl, parquet])


def load(source: Any, folder: Path, rows: Sequence[Any], **options: Any) -> TaskPool:
    made: TaskSource = source(folder, rows, **options)
    return made.load()


@BOTH
def test_prompts_answers_and_all_other_columns_are_read(source: Any, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "1+1=", "answer": "2", "group": "sums", "tags": ["x", "y"], "level": 1},
        {"id": "b", "prompt": "2*3=", "answer": "6", "group": "products", "tags": [], "level": 2.5},
    ]
    pool = load(source, tmp_path, rows)
    assert pool.name == "sums"
    assert [(task.id, task.prompt, task.answer, task.group) for task in pool] == [
        ("a", "1+1=", "2", "sums"),
        ("b", "2*3=", "6", "products"),
    ]
    assert pool[0].columns == {"tags": ["x", "y"], "level": 1.0}
    assert pool[1].columns == {"tags": [], "level": 2.5}


@BOTH
def test_without_an_id_column_the_content_names_the_task(source: Any, tmp_path: Path) -> None:
    assert load(source, tmp_path, ROWS).ids == [task_id("1+1=", "2"), task_id("2*3=", "6")]
    assert load(source, tmp_path, [{"prompt": CHAT, "answer": "2"}]).ids == [task_id(CHAT, "2")]


@BOTH
def test_the_usual_names_are_found(source: Any, tmp_path: Path) -> None:
    rows = [{"task_id": 7, "prompt": "1+1=", "solution": 2, "data_source": "sums"}]
    task = load(source, tmp_path, rows)[0]
    assert (task.id, task.answer, task.group) == ("7", "2", "sums")
    assert task.columns == {"task_id": 7, "solution": 2, "data_source": "sums"}  # for reward functions that want them


@BOTH
def test_named_columns_win_and_displace_nothing(source: Any, tmp_path: Path) -> None:
    rows = [{"id": "x", "uid": "u", "question": "1+1=", "answer": "long", "final": 2, "group": "g", "topic": "sums"}]
    options = {"prompt_column": "question", "answer_column": "final", "id_column": "uid", "group_column": "topic"}
    task = load(source, tmp_path, rows, **options)[0]
    assert (task.id, task.prompt, task.answer, task.group) == ("u", "1+1=", "2", "sums")
    kept = {"original_id": "x", "original_answer": "long", "original_group": "g"}
    assert task.columns == kept | {"uid": "u", "question": "1+1=", "final": 2, "topic": "sums"}


@BOTH
def test_id_wins_over_task_id_and_group_over_data_source(source: Any, tmp_path: Path) -> None:
    rows = [ROWS[0] | {"task_id": "t", "id": "i", "data_source": "d", "group": "g"}]
    task = load(source, tmp_path, rows)[0]
    assert (task.id, task.group) == ("i", "g")


@BOTH
def test_chat_prompts(source: Any, tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Compute."}, *CHAT]
    assert load(source, tmp_path, [{"prompt": chat, "answer": "2"}])[0].prompt == chat


@BOTH
def test_numbers_become_answers_as_they_are_written(source: Any, tmp_path: Path) -> None:
    for numbers in ([42, -7], [0.5, 1.25]):
        rows = [{"prompt": f"{number}=", "answer": number} for number in numbers]
        assert [task.answer for task in load(source, tmp_path, rows)] == [str(number) for number in numbers]


def test_answers_may_mix_numbers_of_any_size_and_strings(tmp_path: Path) -> None:
    rows = [{"prompt": "2**70=", "answer": 2**70}, {"prompt": "1/2=", "answer": "1/2"}]
    assert [task.answer for task in jsonl(tmp_path, rows).load()] == ["1180591620717411303424", "1/2"]


@BOTH
def test_references_are_pass_rates_with_unknowns(source: Any, tmp_path: Path) -> None:
    rows = [row | {"small": rate} for row, rate in zip(ROWS, [0.25, None], strict=True)]
    small = load(source, tmp_path, rows, references=["small"]).features().reference("small")
    assert small[0] == 0.25
    assert math.isnan(small[1])


@BOTH
def test_limit_takes_the_first_rows(source: Any, tmp_path: Path) -> None:
    assert [task.prompt for task in load(source, tmp_path, ROWS, limit=1)] == ["1+1="]
    assert len(load(source, tmp_path, ROWS, limit=9)) == 2
    with pytest.raises(ValueError, match="limit=0; expected at least 1"):
        source(tmp_path, ROWS, limit=0)


def test_rows_after_the_limit_are_not_read(tmp_path: Path) -> None:
    assert len(jsonl(tmp_path, [*ROWS, "no JSON"], limit=2).load()) == 2


def test_white_lines_separators_inside_strings_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_bytes('\ufeff{"prompt": "a\u2028b", "answer": "é"}\r\n\r\n  \n'.encode())
    task = JsonlTasks(path).load()[0]
    assert (task.prompt, task.answer) == ("a\u2028b", "é")


def test_a_key_that_some_lines_lack_is_null_there(tmp_path: Path) -> None:
    pool = jsonl(tmp_path, [ROWS[0], ROWS[1] | {"note": {"by": "me"}}]).load()
    assert [task.columns["note"] for task in pool] == [None, {"by": "me"}]


def test_jsonl_and_parquet_make_the_same_pool(tmp_path: Path) -> None:
    rows = [row | {"small": 0.5, "level": 1} for row in ROWS]
    first = load(jsonl, tmp_path, rows, references=["small"])
    second = load(parquet, tmp_path, rows, references=["small"])
    assert first.fingerprint == second.fingerprint
    assert list(first) == list(second)


@pytest.mark.parametrize("kind", [JsonlTasks, ParquetTasks])
def test_a_missing_file_is_named(kind: type[JsonlTasks] | type[ParquetTasks], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.data is not a file .* Correct the source's `path`"):
        kind(tmp_path / "nowhere.data").load()


@BOTH
@pytest.mark.parametrize(
    ("options", "name", "option"),
    [
        ({"prompt_column": "question"}, "question", "prompt_column"),
        ({"answer_column": "final"}, "final", "answer_column"),
        ({"id_column": "uid"}, "uid", "id_column"),
        ({"group_column": "topic"}, "topic", "group_column"),
        ({"references": ["small"]}, "small", "references"),
    ],
)
def test_a_missing_column_is_named_with_those_that_exist(
    source: Any, options: dict[str, Any], name: str, option: str, tmp_path: Path
) -> None:
    message = rf"sums\.\w+ has no column '{name}'; it has \['prompt', 'answer'\]\. Set `{option}`"
    with pytest.raises(ValueError, match=message):
        load(source, tmp_path, ROWS, **options)


@pytest.mark.parametrize(("first", "second"), [("easy", 3), (1, "hard"), ([1], {"a": 1}), (1, 2**70)])
def test_a_column_of_mixed_types_is_named_by_the_first_line_that_differs(
    first: Any, second: Any, tmp_path: Path
) -> None:
    rows = [{"prompt": f"p{i}", "answer": "a", "level": second if i >= 4 else first} for i in range(9)]
    with pytest.raises(ValueError, match=r"sums\.jsonl, line 5: column 'level' holds .* Write one type of value"):
        jsonl(tmp_path, rows).load()
