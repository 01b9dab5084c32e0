"""Hashes of a pool's contents distinguish corrected answers from another pool."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from bots_lightning.tasks import TaskPool
from bots_lightning.tasks.contents import Contents

CHAT = [{"role": "user", "content": "a"}]


def contents(*rows: dict[str, Any], references: tuple[str, ...] = ()) -> Contents:
    named = [{"id": str(i), "prompt": "p", "answer": "1"} | row for i, row in enumerate(rows)]
    return TaskPool.from_rows(named, references).contents


def test_answers_are_compared_task_by_task() -> None:
    before, after = contents({}, {"answer": "x"}, {"answer": "é"}), contents({}, {"answer": "y"}, {"answer": "e"})
    assert after.changed_answers(before).tolist() == [1, 2]
    assert after.changed_answers(after).tolist() == []
    assert after.is_correction_of(before)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([{"prompt": "ab"}, {"prompt": "c"}], [{"prompt": "a"}, {"prompt": "bc"}]),
        ([{"prompt": "a"}, {"prompt": "b"}], [{"prompt": "b"}, {"prompt": "a"}]),
        ([{"prompt": CHAT}], [{"prompt": [{"role": "system", "content": "a"}]}]),
        ([{"prompt": CHAT + CHAT}, {"prompt": CHAT}], [{"prompt": CHAT}, {"prompt": CHAT + CHAT}]),
        ([{"prompt": "a"}], [{"prompt": CHAT}]),
    ],
)
def test_prompts_are_compared_as_a_whole(one: Any, other: Any) -> None:
    assert not contents(*one).is_correction_of(contents(*other))
    assert contents(*one).is_correction_of(contents(*one))


def test_ids_groups_and_further_fields_of_messages_do_not_count() -> None:
    plain = contents({"prompt": CHAT})
    assert plain.is_correction_of(contents({"id": "x", "prompt": [CHAT[0] | {"name": "me"}], "group": "g"}))


def test_pass_rates_may_change_with_their_answers_only() -> None:
    weak = ("weak",)
    before = contents({"weak": 0.5}, {"weak": None}, references=weak)
    assert contents({"weak": 0.5, "answer": "2"}, {"weak": float("nan")}, references=weak).is_correction_of(before)
    assert contents({"weak": 0.25, "answer": "2"}, {"weak": None}, references=weak).is_correction_of(before)
    assert not contents({"weak": 0.25}, {"weak": None}, references=weak).is_correction_of(before)
    assert not contents({"weak": 0.5}, {"weak": None}).is_correction_of(before)


@pytest.mark.parametrize(
    "prompts", [["a", "bé", "数c", "d", "a", "f"], [CHAT, CHAT + CHAT, CHAT, CHAT, CHAT * 3, CHAT]]
)
def test_the_way_in_which_arrow_holds_the_prompts_does_not_count(
    prompts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots_lightning.tasks.contents.SLICE", 4)

    def hashed(column: pa.ChunkedArray) -> str:
        table = pa.table({"prompt": column, "answer": ["1"] * len(column)})
        return Contents.of(table, ()).prompts

    expected = hashed(pa.chunked_array([prompts]))
    assert hashed(pa.chunked_array([prompts[:1], [], prompts[1:]], pa.array(prompts).type)) == expected
    assert hashed(pa.chunked_array([pa.array(prompts[-1:] + prompts + prompts[:2]).slice(1, 6)])) == expected
    text = isinstance(prompts[0], str)
    other = pa.large_string() if text else pa.large_list(pa.struct({"content": pa.large_string(), "role": pa.string()}))
    assert hashed(pa.chunked_array([pa.array(prompts, other)])) == expected
    assert hashed(pa.chunked_array([prompts[:5]])) != expected
