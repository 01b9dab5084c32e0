"""Filters keep what they say, and report what they removed."""

# Shapes: N tasks.

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from jsonargparse import ArgumentParser
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from bots_lightning.tasks import (
    FilteredTasks,
    Groups,
    JsonlTasks,
    MixedTasks,
    ParquetTasks,
    PassRates,
    PromptCharacters,
    PromptTokens,
    TaskFilter,
    TaskPool,
    TaskSource,
)

NAN = float("nan")
RATES = [0.0, 0.25, 0.5, None, NAN, 1.0]


class Made(TaskSource):
    """Tasks a, b, … of these columns."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns

    def load(self) -> TaskPool:
        rows = [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]
        defaults = [{"id": "abcdefgh"[i], "prompt": f"{i}?", "answer": str(i)} for i in range(len(rows))]
        references = [name for name in self.columns if name == "rate"]
        return TaskPool.from_rows([d | row for d, row in zip(defaults, rows, strict=True)], references, name="made")


def kept(source: TaskSource, *filters: TaskFilter) -> str:
    """The ids that remain."""
    return "".join(FilteredTasks(source, list(filters)).load().ids)


@pytest.mark.parametrize(
    ("band", "ids"),
    [
        (PassRates("rate"), "abcdef"),
        (PassRates("rate", 0.25, 0.5), "bcde"),
        (PassRates("rate", 0.25, 0.5, keep_unknown=False), "bc"),
        (PassRates("rate", high=0.3, keep_unknown=False), "ab"),
        (PassRates("rate", low=1.0, keep_unknown=False), "f"),
    ],
)
def test_a_band_of_pass_rates(band: PassRates, ids: str) -> None:
    assert kept(Made(rate=RATES), band) == ids


def test_the_characters_of_all_messages_count() -> None:
    assert kept(Made(prompt=["1234", "12345", "äöüß"]), PromptCharacters(4)) == "ac"
    chats = [[{"role": "system", "content": "1" * n}, {"role": "user", "content": "12"}] for n in (2, 3)]
    assert kept(Made(prompt=chats), PromptCharacters(4)) == "a"


def tokenizer_of(folder: Path) -> str:
    """One token a word; the chat template adds two to each message and one at the end."""
    words = {"?": 0, "one": 1, "two": 2, "<": 3, ">": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    fast.chat_template = "{% for m in messages %}< {{ m['content'] }} > {% endfor %}<"
    fast.save_pretrained(folder)
    return str(folder)


def test_tokens_are_those_of_the_tokenizer_with_its_template(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    assert kept(Made(prompt=["one two", "one two one"]), PromptTokens(2, tokenizer)) == "a"
    chats = [[{"role": "user", "content": content}] for content in ("one", "one two")]
    assert kept(Made(prompt=chats), PromptTokens(4, tokenizer)) == "a"  # < one > <
    assert kept(Made(prompt=chats), PromptTokens(5, tokenizer)) == "ab"


def test_groups_are_kept_by_name() -> None:
    source = Made(group=["sums", "logic", None, "sums"])
    assert kept(source, Groups(["sums"])) == "ad"
    assert kept(source, Groups(["logic", ""])) == "bc"
    with pytest.raises(ValueError, match=r"no task has the groups \['sum'\]; there are \['', 'logic', 'sums'\]\. Cor"):
        kept(source, Groups(["sum", "logic"]))
    with pytest.raises(ValueError, match=r"no task has the groups \['sums'\]; there are \[''\]"):
        kept(Made(level=[1, 2]), Groups(["sums"]))


def test_filters_follow_each_other_and_each_reports_what_it_removed(caplog: pytest.LogCaptureFixture) -> None:
    """Of six, the long b goes, then a and f outside the band, then none."""
    source = Made(rate=RATES, prompt=["1", "12345", "1", "1", "1", "1"])
    filters = [PromptCharacters(4), PassRates("rate", 0.1, 0.9), PromptCharacters(4)]
    with caplog.at_level(logging.INFO, "bots_lightning.tasks"):
        pool = FilteredTasks(source, filters).load()
    assert pool.ids == ["c", "d", "e"]
    assert (pool.name, pool.references) == ("made", ("rate",))
    assert len(caplog.records) == 1
    assert caplog.messages[0] == (
        "made: 6 tasks; PromptCharacters(maximum=4) removed 1; PassRates(reference='rate', low=0.1, high=0.9, "
        "keep_unknown=True) removed 2; PromptCharacters(maximum=4) removed 0; 3 remain"
    )


def test_nothing_left_is_an_error_with_the_report() -> None:
    with pytest.raises(
        ValueError, match=r"made: 2 tasks; PromptCharacters\(maximum=1\) removed 2; none is left\. Relax"
    ):
        kept(Made(prompt=["12", "123"]), PromptCharacters(1))


def test_a_reference_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"no reference column 'small'; it has \['rate'\]"):
        kept(Made(rate=[0.5]), PassRates("small"))


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.4), (-0.1, 1.0), (0.0, 1.1), (NAN, 1.0)])
def test_a_band_out_of_order_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=rf"low={low}, high={high}; expected 0 ≤ low ≤ high ≤ 1"):
        PassRates("rate", low, high)


def test_filters_are_configured_by_class_path(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "12", "answer": "a"}\n{"prompt": "123", "answer": "b"}\n')
    where = "bots_lightning.tasks."
    config = {
        "class_path": f"{where}FilteredTasks",
        "init_args": {
            "source": {"class_path": f"{where}JsonlTasks", "init_args": {"path": str(tmp_path / "tasks.jsonl")}},
            "filters": [{"class_path": f"{where}PromptCharacters", "init_args": {"maximum": 2}}],
        },
    }
    parser = ArgumentParser()
    parser.add_argument("--source", type=TaskSource)
    source = parser.instantiate(parser.parse_args([f"--source={json.dumps(config)}"])).source
    assert [task.answer for task in source.load()] == ["a"]


def test_tasks_keep_their_places_through_filters_mixtures_and_added_columns(tmp_path: Path) -> None:
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for file, names in zip(files, ("abc", "def"), strict=True):
        rows = [json.dumps({"id": name, "prompt": f"{name}?", "answer": "1"}) for name in (*names, names[0])]
        file.write_text("\n\n".join(rows))  # lines 1, 3, 5, 7
    table = tmp_path / "second.parquet"
    pq.write_table(TaskPool.from_rows([{"id": n, "prompt": n * 3, "answer": "1"} for n in "xyz"]).table, table)
    sources = {str(file): JsonlTasks(file, drop_duplicates=True) for file in files} | {"table": ParquetTasks(table)}
    pool = MixedTasks(sources).load()
    places = {
        **dict(zip("abc", [f"{files[0]}, line {n}" for n in (1, 3, 5)], strict=True)),
        **dict(zip("def", [f"{files[1]}, line {n}" for n in (1, 3, 5)], strict=True)),
        **dict(zip("xyz", [f"{table}, row {n}" for n in range(3)], strict=True)),
    }
    pools = [
        pool,
        pool.select([7, 2, 5]),
        pool.where(np.arange(9) % 2 == 1).where(np.arange(4) > 0),
        pool.with_columns({"rate": [0.5] * 9}, ["rate"]),
        pool.select([4]).extended(pool.select([8, 0])),
    ]
    for each in pools:
        assert [each.place(row) for row in range(len(each))] == [places[name] for name in each.ids]
    assert pool.named(4) == f"task 'e' ({files[1]}, line 3)"
    assert TaskPool(pool.table).place(4) == "row 4"


def test_a_pool_is_read_from_first_to_last_task() -> None:
    pool = TaskPool.from_rows([{"id": f"t{i}", "prompt": f"{i}?", "answer": str(i), "level": i} for i in range(600)])
    assert list(pool) == [pool[i] for i in range(600)]
