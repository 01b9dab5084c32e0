"""Data sets of the `datasets` package: folders that it wrote and folders of data files; the Hub is not asked."""

# Shapes: N tasks.

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonargparse import ArgumentParser

from bots_lightning.tasks import DatasetTasks, ParquetTasks, TaskSource

datasets = pytest.importorskip("datasets")

ROWS: dict[str, list[Any]] = {
    "problem": ["1+1=", "2+2=", "3+3="],
    "answer": ["2", "4", "6"],
    "difficulty": ["3/8", None, "8/8"],
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    folder = tmp_path / "maths"
    folder.mkdir()
    pq.write_table(pa.table(ROWS), folder / "train.parquet")
    pq.write_table(pa.table(ROWS).slice(1, 1), folder / "test.parquet")
    return folder


def test_a_folder_of_parquet_files_is_read_by_split(parquet: Path) -> None:
    pool = DatasetTasks(str(parquet)).load()
    assert list(pool) == list(ParquetTasks(parquet / "train.parquet").load())
    assert (pool.name, pool.references) == ("maths", ("difficulty",))
    assert [task.prompt for task in DatasetTasks(str(parquet), split="test").load()] == ["2+2="]
    assert len(DatasetTasks(str(parquet), limit=2).load()) == 2


def test_a_folder_of_json_lines_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "sums"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    assert [task.prompt for task in DatasetTasks(str(folder), system_prompt="Compute.").load()] == [
        [{"role": "system", "content": "Compute."}, {"role": "user", "content": "1+1="}]
    ]


def test_a_csv_file_holds_chats_and_truths_as_json(tmp_path: Path) -> None:
    folder = tmp_path / "sums"
    folder.mkdir()
    chat = [{"role": "user", "content": 'Say "1, 2".'}]
    cells = [json.dumps(chat), json.dumps({"style": "rule", "ground_truth": "1, 2"})]
    with (folder / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "reward_model"], cells])
    (task,) = DatasetTasks(str(folder)).load()
    assert (task.prompt, task.answer) == (chat, "1, 2")


def test_a_saved_data_set_is_read_in_its_own_order(tmp_path: Path) -> None:
    """One split, shuffled by a list of positions, and several."""
    whole = datasets.Dataset.from_dict(ROWS)
    whole.select([2, 0]).save_to_disk(tmp_path / "one")
    assert [task.answer for task in DatasetTasks(str(tmp_path / "one")).load()] == ["6", "2"]
    datasets.DatasetDict({"train": whole, "test": whole.select([1])}).save_to_disk(tmp_path / "two")
    assert [task.answer for task in DatasetTasks(str(tmp_path / "two"), split="test").load()] == ["4"]


def test_a_split_that_is_not_there_is_refused(parquet: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"maths cannot be read .*nope.* Correct .* its `split`"):
        DatasetTasks(str(parquet), split="nope").load()
    loaded = datasets.load_dataset(str(parquet), split="test")
    loaded.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"saved has no split 'train'; it has \['test'\]\. Set `split`"):
        DatasetTasks(str(tmp_path / "saved")).load()


def test_a_folder_without_data_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty cannot be read as a dataset .*Correct the source's `path`"):
        DatasetTasks(str(tmp_path / "empty")).load()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match=r"bad cannot be read as a dataset"):
        DatasetTasks(str(tmp_path / "bad")).load()


def test_a_faulty_task_is_named_by_its_split_and_row(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"prompt": ["p", " "], "answer": ["2", "4"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"saved, split 'train', row 1: the prompt is empty"):
        DatasetTasks(str(tmp_path / "saved")).load()


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'bots-lightning\[datasets\]'"):
        DatasetTasks("org/maths").load()


def test_its_options_are_those_of_every_table(parquet: Path) -> None:
    """The command line finds them through the base class."""
    init = {"path": str(parquet), "split": "test", "answer_column": "difficulty", "references": [], "limit": 1}
    parser = ArgumentParser()
    parser.add_argument("--source", type=TaskSource)
    config = {"class_path": "bots_lightning.tasks.DatasetTasks", "init_args": init}
    source = parser.instantiate(parser.parse_args([f"--source={json.dumps(config)}"])).source
    assert (source.named["answer"], source.references, source.limit, source.split) == ("difficulty", [], 1, "test")
