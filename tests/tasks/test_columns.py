"""Columns of a pool as arrays of numbers, labels or embeddings."""

# Shapes: N tasks in the pool, F numbers of an embedding.

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bots_lightning.tasks import TaskPool

NAN = float("nan")
CHAT = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}]


def pool_of(references: tuple[str, ...] = (), **columns: list[Any]) -> TaskPool:
    """Tasks a, b, … with these columns."""
    n = len(next(iter(columns.values())))
    rows = [
        {"id": "abcdefgh"[k], "prompt": "?" * (k + 1), "answer": ""} | {name: v[k] for name, v in columns.items()}
        for k in range(n)
    ]
    return TaskPool.from_rows(rows, references=references)


def test_numbers_have_nan_for_null() -> None:
    features = pool_of(level=[1, None, 3], rate=[0.5, NAN, None], solved=[True, False, None]).features()
    np.testing.assert_array_equal(features.column("level"), [1, NAN, 3])
    np.testing.assert_array_equal(features.column("rate"), [0.5, NAN, NAN])
    np.testing.assert_array_equal(features.column("solved"), [1, 0, NAN])


def test_labels_are_empty_for_null() -> None:
    features = pool_of(kind=["sum", None, "product"]).features()
    assert features.column("kind").tolist() == ["sum", "", "product"]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2)])
def test_lists_of_numbers_are_embeddings(kind: pa.DataType) -> None:
    table = pool_of(level=[1, 2]).table.append_column("vector", pa.array([[1.0, 2.0], [0.5, -4.0]], kind))
    vectors = TaskPool(table).features().column("vector")
    np.testing.assert_array_equal(vectors, [[1, 2], [0.5, -4]])


@pytest.mark.parametrize(
    ("values", "lengths"),
    [([[1.0], [1.0, 2.0]], r"\['1', '2'\]"), ([[1.0, 2.0], None], r"\['2', 'None'\]"), ([[], []], r"\['0'\]")],
)
def test_embeddings_of_different_lengths_are_refused(values: list[Any], lengths: str) -> None:
    with pytest.raises(ValueError, match=f"column 'v' holds lists of the lengths {lengths}; expected one length F"):
        pool_of(v=values).features().column("v")


def test_columns_of_something_else_are_refused() -> None:
    for values in ([{"a": 1}, {"a": 2}], [["x"], ["y"]], [b"x", b"y"]):
        with pytest.raises(
            ValueError, match=r"column 'meta' has the type .*; expected numbers, strings, or lists of n"
        ):
            pool_of(meta=values).features().column("meta")


def test_prompts_have_a_length_in_characters_of_all_messages() -> None:
    """Its logarithm."""
    rows = [{"id": "a", "prompt": "1+1=", "answer": "2"}, {"id": "b", "prompt": "ä+ö+1?", "answer": "2"}]
    lengths = TaskPool.from_rows(rows).features().column("log_prompt_length")
    np.testing.assert_allclose(lengths, np.log([4, 6]), rtol=1e-15)
    chats = TaskPool.from_rows([{"id": "a", "prompt": CHAT, "answer": "2"}])
    np.testing.assert_allclose(chats.features().column("log_prompt_length"), np.log([4 + 4]), rtol=1e-15)


def test_a_column_of_the_pool_comes_before_the_one_that_is_made() -> None:
    columns = pool_of(log_prompt_length=[7, 8]).features().columns
    np.testing.assert_array_equal(columns["log_prompt_length"], [7, 8])
    assert list(columns) == ["log_prompt_length"]


def test_the_columns_are_those_of_the_table_without_text() -> None:
    columns = pool_of(group=["g", "h"], level=[1, 2]).features().columns
    assert sorted(columns) == ["group", "level", "log_prompt_length"]
    assert len(columns) == 3
    for name in ("prompt", "answer", "id", "size"):
        assert name not in columns
        with pytest.raises(KeyError, match=name):
            columns[name]


def test_an_unknown_column_names_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"no column 'size' of numbers or labels; it has \['level', 'log_prompt_length'\]"
    ):
        pool_of(level=[1, 2]).features().column("size")
