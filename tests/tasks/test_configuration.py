"""Sources inside sources, as a YAML file nests them by class_path."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonargparse import ArgumentParser

from bots_lightning.tasks import TaskPool, TaskSource

NESTED = """
source:
  class_path: bots_lightning.tasks.FilteredTasks
  init_args:
    source:
      class_path: bots_lightning.tasks.SplitTasks
      init_args:
        heldout_fraction: 0.5
        source:
          class_path: bots_lightning.tasks.MixedTasks
          init_args:
            sources:
              sums:
                class_path: bots_lightning.tasks.JsonlTasks
                init_args:
                  path: {folder}/sums.jsonl
                  chat: true
              rated:
                class_path: bots_lightning.tasks.ParquetTasks
                init_args:
                  path: {folder}/rated.parquet
                  references: [rate]
                  chat: true
    filters:
      - class_path: bots_lightning.tasks.Groups
        init_args:
          keep: [sums, rated]
      - class_path: bots_lightning.tasks.PassRates
        init_args:
          reference: rate
          high: 0.5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten sums without pass rates, ten tasks with the rates 0, 0.1, …, 0.9."""
    rows = [json.dumps({"id": f"s{i}", "prompt": f"{i}+1=", "answer": i + 1}) for i in range(10)]
    (tmp_path / "sums.jsonl").write_text("\n".join(rows))
    columns = {"id": [f"r{i}" for i in range(10)], "prompt": [f"{i}-1=" for i in range(10)], "answer": ["?"] * 10}
    pq.write_table(pa.table(columns | {"rate": [i / 10 for i in range(10)]}), tmp_path / "rated.parquet")
    return tmp_path


def load(folder: Path, *options: str) -> TaskPool:
    """The pool of the nested sources, with options of the command line."""
    (folder / "config.yaml").write_text(NESTED.format(folder=folder))
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--source", type=TaskSource)
    arguments = parser.parse_args(["--config", str(folder / "config.yaml"), *options])
    source: TaskSource = parser.instantiate(arguments).source
    return source.load()


def test_sources_nest_in_a_configuration_and_the_command_line_overrides_it(folder: Path) -> None:
    train = load(folder)
    heldout = load(folder, "--source.init_args.source.init_args.split=heldout")
    low_rates_or_none = {f"s{i}" for i in range(10)} | {f"r{i}" for i in range(6)}
    assert {*train.ids} | {*heldout.ids} == low_rates_or_none
    assert {*train.ids} & {*heldout.ids} == set()
    assert (train.references, {*train.groups}) == (("rate",), {"sums", "rated"})
    assert train[0].prompt == [{"role": "user", "content": f"{train[0].id[1:]}+1="}]
