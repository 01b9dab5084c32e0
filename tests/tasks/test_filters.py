"""Filters keep what they say, and report what they removed."""

# Shapes: N tasks.

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from bots_lightning.tasks import (
    FilteredTasks,
    Groups,
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
    with pytest.raises(
        ValueError, match=r"no task is of the groups \['sum'\]; there are \['', 'logic', 'sums'\]\. Cor"
    ):
        kept(source, Groups(["sum", "logic"]))
    with pytest.raises(ValueError, match=r"no task is of the groups \['sums'\]; there are \[''\]"):
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
        ValueError, match=r"made: 2 tasks; PromptCharacters\(maximum=1\) removed 2; none is left\. Loosen"
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
