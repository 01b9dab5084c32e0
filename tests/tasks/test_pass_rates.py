"""Measured pass rates become reference columns by task id, whatever the order; what does not fit is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.tasks import TaskPool, TaskSource
from bots_lightning.tasks.pass_rates import WithPassRates, journals

ROWS = [{"id": name, "prompt": f"{name}?", "answer": name, "small": 0.5} for name in "abcd"]


class Rows(TaskSource):
    def load(self) -> TaskPool:
        return TaskPool.from_rows(ROWS, references=["small"], name="rows")


def write(path: Path, rates: dict[str, float | None], **more: Any) -> str:
    columns = {"id": list(rates), "pass_rate": pa.array(rates.values(), pa.float64())} | more
    pq.write_table(pa.table(columns), path)
    return str(path)


def load(**tables: str) -> TaskPool:
    return WithPassRates(Rows(), tables).load()


def test_tables_are_joined_by_id_and_existing_references_are_kept(tmp_path: Path) -> None:
    weak = write(tmp_path / "weak.parquet", {"d": 0.25, "a": 0.0, "c": None, "b": 1.0}, seed=[0] * 4)
    strong = write(tmp_path / "strong.parquet", {"c": 0.75, "b": 0.5})
    pool = load(weak=weak, strong=strong)
    assert pool.references == ("small", "weak", "strong")
    assert pool.table["weak"].to_pylist() == [0.0, 1.0, None, 0.25]
    assert pool.table["strong"].to_pylist() == [None, 0.5, 0.75, None]
    np.testing.assert_array_equal(pool.features().reference("strong"), [np.nan, 0.5, 0.75, np.nan])
    assert [task.prompt for task in pool] == [f"{name}?" for name in "abcd"]


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.floats(0, 1), min_size=1))
def test_every_task_gets_its_own_rate(tmp_path_factory: pytest.TempPathFactory, rates: dict[str, float | None]) -> None:
    path = write(tmp_path_factory.mktemp("table") / "t.parquet", rates)
    if not set(rates) & set("abcd"):
        with pytest.raises(ValueError, match="another pool"):
            load(rate=path)
        return
    assert load(rate=path).table["rate"].to_pylist() == [rates.get(name) for name in "abcd"]


def test_a_table_without_any_known_rate_is_unknown_everywhere(tmp_path: Path) -> None:
    pool = load(rate=write(tmp_path / "t.parquet", {"a": None, "b": None}))
    assert np.isnan(pool.features().reference("rate")).all()


def test_ids_that_the_pool_lacks_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "t.parquet", {"a": 0.5, "v": 0.1, "w": 0.1, "x": 0.1, "y": 0.1})
    with caplog.at_level(logging.INFO):
        load(rate=path)
    assert f"{path}: ignored 4 tasks that are not in the pool: 'v', 'w', 'x', …" in caplog.text
    assert f"{path}: rate of 4 tasks, 3 unknown" in caplog.text


def test_a_table_of_another_pool_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"x": 0.5, "y": 0.5})
    with pytest.raises(ValueError, match=r"of another pool: none of its 2 ids, such as \['x', 'y'\], is among the po"):
        load(rate=path)


@pytest.mark.parametrize("name", ["small", "answer", "group"])
def test_a_column_that_is_there_is_not_replaced(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"the pool already has the columns \['{name}'\]"):
        load(**{name: write(tmp_path / "t.parquet", {"a": 0.5})})


def test_no_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="tables is empty"):
        WithPassRates(Rows(), {})


def test_a_missing_file_is_named_and_a_run_that_was_begun(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(FileNotFoundError, match=r"t.parquet is not a file .*Write it with `bots-lightning predict"):
        load(rate=str(path))
    (tmp_path / "t.rank-0.jsonl").touch()
    with pytest.raises(FileNotFoundError, match=r"t.rank-0.jsonl is from an interrupted run"):
        load(rate=str(path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a", "a"], "pass_rate": [0.1, 0.2]}, r"1 task ids appear more than once: 'a' \(.*t.parquet, row 0; "),
        ({"id": ["a", "b"], "pass_rate": [0.1, 1.2]}, r"t.parquet, row 1: pass_rate=1.2; expected a pass rate in"),
        ({"id": ["a", "b"], "rate": [0.1, 1.2]}, r"t.parquet has no column \['pass_rate'\]; it has \['id', 'rate'\]"),
        (
            {"id": pa.array([b"a", b"\xe9"], pa.binary()).view(pa.string()), "pass_rate": [0.1, 0.2]},
            r"t.parquet, row 1: column 'id' holds text that is not UTF-8",
        ),
    ],
)
def test_what_is_no_table_of_pass_rates_is_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=message):
        load(rate=str(tmp_path / "t.parquet"))


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text('{"id": "a", "pass_rate": 0.5}\n')
    with pytest.raises(ValueError, match=r"t.parquet is not a Parquet file, or damaged"):
        load(rate=str(tmp_path / "t.parquet"))


def test_journals_are_those_of_this_table(tmp_path: Path) -> None:
    names = ["a.rank-0.jsonl", "a.rank-11.jsonl", "b.rank-0.jsonl", "xa.rank-0.jsonl", "a.rank-x.jsonl", "a.jsonl"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in journals(tmp_path / "a.parquet")] == names[:2]
