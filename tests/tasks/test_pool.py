"""The pool: its rows, its features, and the errors of invalid ones."""

# Shapes: N tasks in the pool.

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.tasks import Task, TaskPool, task_id
from bots_lightning.tasks.task import Prompt

NAN = float("nan")
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "1+1=", "answer": "2", "group": "sums", "level": 1, "small": 0.25},
    {"id": "b", "prompt": "2*3=", "answer": "6", "group": "products", "level": 2, "small": None},
    {"id": "c", "prompt": "9-2=", "answer": "7", "group": "sums", "level": 3, "small": NAN},
]


def changed(row: int, **values: Any) -> list[dict[str, Any]]:
    """The rows with some values of one replaced."""
    return [task | values if i == row else task for i, task in enumerate(ROWS)]


def without(*names: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in names} for row in ROWS]


def test_a_task_is_its_row() -> None:
    pool = TaskPool.from_rows(ROWS, references=["small"])
    assert pool[0] == Task("a", "1+1=", "2", "sums", {"level": 1, "small": 0.25})
    assert [task.id for task in pool] == pool.ids == ["a", "b", "c"]
    assert pool[np.int64(1)].columns == {"level": 2, "small": None}


@pytest.mark.parametrize("index", [3, -1])
def test_a_position_outside_the_pool_is_an_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"task index {index}; the pool has 3 tasks"):
        TaskPool.from_rows(ROWS)[index]


def test_chat_prompts_come_back_as_messages() -> None:
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "1+1="}]
    assert TaskPool.from_rows([{"id": "a", "prompt": chat, "answer": "2"}])[0].prompt == chat


def test_features_hold_groups_and_references_with_nan_where_unknown() -> None:
    features = TaskPool.from_rows(ROWS, references=["small"]).features()
    assert features.num_tasks == 3
    assert features.groups.tolist() == ["sums", "products", "sums"]
    np.testing.assert_array_equal(features.reference("small"), np.array([0.25, NAN, NAN]))
    assert features.reference("small").dtype == np.float64


def test_a_pool_without_groups_has_an_empty_array_and_an_absent_group_is_the_empty_string() -> None:
    assert len(TaskPool.from_rows(without("group")).groups) == 0
    assert TaskPool.from_rows(without("group"))[0].group == ""
    half = TaskPool.from_rows(changed(1, group=None))
    assert half.groups.tolist() == ["sums", "", "sums"]
    assert half[1].group == ""


def test_integer_and_entirely_unknown_references_are_pass_rates_too() -> None:
    pool = TaskPool.from_rows(without("small")).with_columns(
        {"ones": [1, 0, None], "none": [None] * 3}, ["ones", "none"]
    )
    features = pool.features()
    np.testing.assert_array_equal(features.reference("ones"), np.array([1.0, 0.0, NAN]))
    assert np.isnan(features.reference("none")).all()


def test_the_fingerprint_depends_on_ids_order_and_reference_values_only() -> None:
    fingerprint = TaskPool.from_rows(ROWS, ["small"], name="x").fingerprint
    assert len(fingerprint) == 16
    assert int(fingerprint, 16) >= 0
    same = [
        TaskPool.from_rows(ROWS, ["small"], name="y"),
        TaskPool.from_rows(changed(1, small=NAN), ["small"]),
        TaskPool.from_rows(changed(0, level=7), ["small"]),
    ]
    assert {pool.fingerprint for pool in same} == {fingerprint}
    other = [
        TaskPool.from_rows(ROWS),
        TaskPool.from_rows(ROWS[::-1], ["small"]),
        TaskPool.from_rows(changed(0, small=0.26), ["small"]),
        TaskPool.from_rows(changed(0, id="d"), ["small"]),
    ]
    assert len({fingerprint} | {pool.fingerprint for pool in other}) == 5


def test_the_fingerprint_is_that_of_all_ids_as_one_json_list() -> None:
    """Whatever the size of the pieces in which they are read."""
    ids = [f'"{i}"é' for i in range(10_000)]
    pool = TaskPool(pa.table({"id": ids, "prompt": ids, "answer": ids}))
    assert pool.fingerprint == sha256(json.dumps(ids).encode()).hexdigest()[:16]


def test_many_chunks_become_one_so_that_a_task_is_found_quickly() -> None:
    one = TaskPool.from_rows(ROWS).table
    tables = [one.slice(0, 1).set_column(0, "id", pa.array([str(i)])) for i in range(1500)]
    pool = TaskPool(pa.concat_tables(tables))
    assert pool.table["prompt"].num_chunks == 1
    assert pool[1234].id == "1234"
    assert TaskPool(pa.concat_tables(tables[:3])).table["prompt"].num_chunks == 3  # no copy is made of a few


def test_where_keeps_the_tasks_that_are_chosen() -> None:
    pool = TaskPool.from_rows(ROWS, ["small"], name="x").where(np.array([True, False, True]))
    assert (pool.ids, pool.references, pool.name) == (["a", "c"], ("small",), "x")


def test_select_keeps_the_order_asked_for_and_the_references() -> None:
    pool = TaskPool.from_rows(ROWS, ["small"], name="x").select(np.array([2, 0]))
    assert pool.ids == ["c", "a"]
    assert (pool.references, pool.name) == (("small",), "x")
    with pytest.raises(IndexError, match="the pool has 3"):
        TaskPool.from_rows(ROWS).select([0, 3])


def test_with_columns_adds_and_replaces_and_leaves_the_first_pool_alone() -> None:
    pool = TaskPool.from_rows(ROWS, ["small"])
    wider = pool.with_columns({"large": [0.5, 0.75, 1.0], "level": [4, 5, 6]}, references=["small", "large"])
    assert wider[2].columns["level"] == 6
    assert sorted(wider.features().references) == ["large", "small"]
    assert pool[2].columns["level"] == 3
    with pytest.raises(ValueError, match="column 'large' has 2 values; expected 3"):
        pool.with_columns({"large": [0.5, 0.75]}, references=["large"])


def test_rows_may_lack_further_columns_wherever_they_first_appear() -> None:
    rows = [{"id": "a", "prompt": "p", "answer": "1"}, {"id": "b", "prompt": "q", "answer": "2", "note": "n"}]
    assert [task.columns for task in TaskPool.from_rows(rows)] == [{"note": None}, {"note": "n"}]


@pytest.mark.parametrize(
    ("rows", "references", "message"),
    [
        ([], [], "the pool 'sums' has no tasks"),
        (without("answer"), [], r"has no column 'answer'; it has \['id', 'prompt', 'group'"),
        (ROWS, ["tiny"], "has no column 'tiny'"),
        (changed(1, id="a"), [], r"1 task ids appear more than once: 'a' \(row 0; row 1\)"),
        (changed(1, id=None), [], "row 1: the id is null"),
        (changed(1, prompt=" "), [], r"task 'b' \(row 1\): the prompt is empty"),
        (changed(1, prompt=None), [], r"task 'b' \(row 1\): the prompt is empty"),
        (changed(2, answer=None), [], r"task 'c' \(row 2\): the answer is null"),
        ([row | {"answer": 2} for row in ROWS], [], "column 'answer' has the type int64; expected strings"),
        ([row | {"prompt": 2} for row in ROWS], [], r"task 'a' \(row 0\): the prompt is a number"),
        ([row | {"small": "1/2"} for row in ROWS], ["small"], r"task 'a' \(row 0\): small is a string '1/2'"),
        (changed(0, small=1.5), ["small"], r"task 'a' \(row 0\): small=1.5; expected a pass rate in \[0, 1\]"),
        (changed(0, small=-0.5), ["small"], "small=-0.5"),
        (changed(0, small=float("inf")), ["small"], "small=inf"),
    ],
)
def test_what_is_wrong_is_named(rows: list[dict[str, Any]], references: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskPool.from_rows(rows, references, name="sums")


def test_only_the_first_few_of_many_duplicates_are_named() -> None:
    rows = [{"id": str(i // 2), "prompt": "p", "answer": "a"} for i in range(20)]
    with pytest.raises(ValueError, match=r"10 task ids .*'0' .*'1' .*'2' .*, …\.") as error:
        TaskPool.from_rows(rows)
    assert "'3'" not in str(error.value)


def test_large_strings_and_chunks_are_tables_as_any_other() -> None:
    table = pa.table({name: pa.array(["x", "y"], pa.large_string()) for name in ("id", "prompt", "answer", "group")})
    pool = TaskPool(pa.concat_tables([table.slice(0, 1), table.slice(1, 1)]))
    assert pool[1] == Task("y", "y", "y", "y")


messages = st.lists(st.fixed_dictionaries({"role": st.text(), "content": st.text()}), min_size=1)


@given(st.lists(st.tuples(st.text() | messages, st.text()), min_size=2, max_size=2, unique_by=repr))
def test_different_tasks_have_different_hashes(tasks: list[tuple[Prompt, str]]) -> None:
    first, second = tasks
    assert task_id(*first) != task_id(*second)


@given(st.text() | messages, st.text())
def test_a_content_hash_is_that_of_json(prompt: Prompt, answer: str) -> None:
    asked = prompt if isinstance(prompt, str) else [[message["role"], message["content"]] for message in prompt]
    assert task_id(prompt, answer) == sha256(json.dumps([asked, answer]).encode()).hexdigest()[:16]


def test_a_content_hash_never_changes() -> None:
    chat = [{"content": "1+1=", "role": "user"}]
    assert task_id("1+1=", "2") == "f5ee968b8893e73e"
    assert task_id(chat, "2") == task_id([{"role": "user", "content": "1+1="}], "2") == "f3e69642006df089"


# --- a pool that grows ----------------------------------------------------------------------------------------------


def test_an_extended_pool_holds_the_own_tasks_first() -> None:
    pool = TaskPool.from_rows(ROWS[:2], references=["small"], name="maths")
    more = TaskPool.from_rows([ROWS[2] | {"level": 2.5, "source": "new"}], references=["small"])
    grown = pool.extended(more)
    assert grown.ids == ["a", "b", "c"]
    assert [grown[k].prompt for k in range(3)] == [row["prompt"] for row in ROWS]
    assert (grown.references, grown.name, len(pool)) == (("small",), "maths", 2)
    assert grown[2].columns["source"] == "new"
    assert grown[0].columns["source"] is None  # a column that one of the two lacks
    np.testing.assert_array_equal(grown.features().column("level"), [1, 2, 2.5])
    np.testing.assert_array_equal(grown.features().reference("small"), [0.25, NAN, NAN])
    assert grown.fingerprint == TaskPool.from_rows(ROWS, references=["small"]).fingerprint != pool.fingerprint


def test_tasks_of_other_types_do_not_extend_a_pool() -> None:
    chat = {"id": "d", "prompt": [{"role": "user", "content": "8/2="}], "answer": "4"}
    with pytest.raises(ValueError, match=r"the columns of the further tasks do not fit those of the pool .*prompt"):
        TaskPool.from_rows(ROWS).extended(TaskPool.from_rows([chat]))


def test_tasks_without_rates_or_groups_extend_a_pool_that_has_them() -> None:
    grown = TaskPool.from_rows(ROWS, references=["small"]).extended(
        TaskPool.from_rows([{"id": "d", "prompt": "8/2=", "answer": "4"}])
    )
    np.testing.assert_array_equal(grown.features().reference("small"), [0.25, NAN, NAN, NAN])
    assert grown.groups.tolist() == ["sums", "products", "sums", ""]
    assert grown.features().group_names == ["sums", "products", ""]


def test_groups_keep_their_place_when_a_pool_grows() -> None:
    """New labels come behind, whatever their alphabetical place."""
    pool = TaskPool.from_rows(ROWS[:2])
    grown = pool.extended(TaskPool.from_rows([ROWS[2], ROWS[0] | {"id": "d", "group": "algebra"}]))
    assert pool.features().group_names == ["sums", "products"]
    assert grown.features().group_names == ["sums", "products", "algebra"]
    assert grown.features().group_codes.tolist() == [0, 1, 0, 2]


def test_a_task_that_is_there_already_is_refused() -> None:
    with pytest.raises(ValueError, match="'b'"):
        TaskPool.from_rows(ROWS).extended(TaskPool.from_rows([ROWS[1]]))
