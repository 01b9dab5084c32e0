"""One pool of a folder or a glob; large Parquet files, read piece by piece."""

# Shapes: N tasks.

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bots_lightning.tasks import JsonlTasks, ParquetTasks
from bots_lightning.tasks import files as files_module


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)


def rows(*ids: str) -> list[dict[str, Any]]:
    return [{"id": name, "prompt": f"{name}?", "answer": name} for name in ids]


KINDS = pytest.mark.parametrize(("source", "suffix"), [(JsonlTasks, "jsonl"), (ParquetTasks, "parquet")])


@KINDS
def test_a_folder_and_a_glob_are_read_in_the_order_of_names(source: Any, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    write(folder / f"b.{suffix}", *rows("c"))
    write(folder / f"a.{suffix}", *rows("a", "b"))
    write(folder / f"z.{suffix}.part", *rows("z"))
    assert source(folder).load().ids == source(folder / f"*.{suffix}").load().ids == ["a", "b", "c"]
    assert source(tmp_path / "**" / f"[b-z].{suffix}").load().ids == ["c"]
    assert source(folder).load().name == "tasks"


@KINDS
def test_the_limit_counts_over_all_files(source: Any, suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"a.{suffix}", *rows("a", "b"))
    write(tmp_path / f"b.{suffix}", *rows("c", "d"))
    for limit, ids in ((1, ["a"]), (2, ["a", "b"]), (3, ["a", "b", "c"]), (9, ["a", "b", "c", "d"])):
        assert source(tmp_path, limit=limit).load().ids == ids


@KINDS
def test_a_fault_is_named_by_its_file_and_its_row_there(source: Any, suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"a.{suffix}", *rows("a", "b"))
    write(tmp_path / f"b.{suffix}", *rows("c", "d"), {"id": "e", "prompt": "", "answer": "e"})
    with pytest.raises(ValueError, match=rf"b\.{suffix}, (line 3|row 2): the prompt is empty"):
        source(tmp_path).load()
    write(tmp_path / f"b.{suffix}", *rows("c", "b"))
    with pytest.raises(ValueError, match=rf"'b' \(.*a\.{suffix}, (line 2; |row 1; ).*b\.{suffix}, (line 2|row 1)\)"):
        source(tmp_path).load()


@KINDS
def test_a_column_that_some_files_lack_is_null_there(source: Any, suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"a.{suffix}", *rows("a"))
    write(tmp_path / f"b.{suffix}", *(row | {"level": 3} for row in rows("b")))
    write(tmp_path / f"c.{suffix}", *(row | {"level": 0.5} for row in rows("c")))
    assert [task.columns["level"] for task in source(tmp_path).load()] == [None, 3.0, 0.5]


def test_parquet_is_the_same_read_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tasks.parquet"
    chats = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows(*map(str, range(20)))]
    pq.write_table(pa.Table.from_pylist(chats), path, row_group_size=7)
    whole = list(ParquetTasks(path, system_prompt="S").load())
    for size in (1, 3, 20):
        monkeypatch.setattr(files_module, "BATCH_ROWS", size)
        assert list(ParquetTasks(path, system_prompt="S").load()) == whole
        assert list(ParquetTasks(path, system_prompt="S", limit=5).load()) == whole[:5]
    assert [task.prompt[1]["content"] for task in whole] == [f"{i}?" for i in range(20)]


def test_categories_are_read_as_their_labels(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows("a", "b")).append_column("group", pa.array(["x", "x"]).dictionary_encode())
    pq.write_table(table, tmp_path / "tasks.parquet")
    assert ParquetTasks(tmp_path / "tasks.parquet").load().groups.tolist() == ["x", "x"]


def test_prompts_of_a_parquet_file_do_not_become_python_objects(tmp_path: Path) -> None:
    """20,000 chats of 1,000 characters are 20 MB as Python strings; one slice of them is 4."""
    num_tasks = 20_000
    contents = [f"{i:04d}" * 250 for i in range(num_tasks)]
    columns = {
        "data_source": ["maths"] * num_tasks,
        "prompt": [[{"role": "user", "content": content}] for content in contents],
        "reward_model": [{"style": "rule", "ground_truth": content[-4:]} for content in contents],
        "qwen2.5_7b_pass_rate": [0.5] * num_tasks,
    }
    pq.write_table(pa.table(columns), tmp_path / "tasks.parquet")
    del columns, contents
    tracemalloc.start()
    try:
        pool = ParquetTasks(tmp_path / "tasks.parquet", system_prompt="Compute.").load()
        pool.features().column("log_prompt_length")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 14e6
    assert pool[num_tasks - 1].answer == "9999"
