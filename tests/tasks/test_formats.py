"""Public task sets are recognised by their columns, and configured where that is not enough."""

# Shapes: N tasks.

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonargparse import ArgumentParser

from bots_lightning.tasks import JsonlTasks, MixedTasks, ParquetTasks, TaskPool, TaskSource, task_id
from bots_lightning.tasks.formats import FORMATS, recognise

NAN = float("nan")
CHAT = [{"role": "user", "content": "1+1="}]
GURU = {
    "data_source": "math__merged",
    "prompt": CHAT,
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 7, "split": "train"},
    "qwen2.5_7b_pass_rate": 0.25,
    "qwen3_30b_pass_rate": 0.75,
}
BIG_MATH = {"problem": "1+1=", "answer": "2", "source": "gsm8k", "domain": ["Algebra"], "llama8b_solve_rate": 0.5}
POLARIS = {"problem": "1+1=", "answer": "2", "difficulty": "3/8"}
GSM8K = {"question": "1+1=", "answer": "One and one\nare <<1+1=2>>2\n#### 2"}
MATH = {"problem": "1+1=", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "test/1.json"}
TRL = {"prompt": "1+1=", "solution": "2"}


def pool_of(kind: str, folder: Path, *rows: dict[str, Any], **options: Any) -> TaskPool:
    """The pool of these rows, written as JSONL or Parquet."""
    path = folder / f"tasks.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return JsonlTasks(path, **options).load()
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return ParquetTasks(path, **options).load()


BOTH = pytest.mark.parametrize("kind", ["jsonl", "parquet"])


@BOTH
@pytest.mark.parametrize(
    ("row", "name", "prompt", "group", "references"),
    [
        (GURU, "verl", CHAT, "math__merged", {"qwen2.5_7b_pass_rate": 0.25, "qwen3_30b_pass_rate": 0.75}),
        (BIG_MATH, "Big-Math", "1+1=", "gsm8k", {"llama8b_solve_rate": 0.5}),
        (POLARIS, "Polaris", "1+1=", "", {"difficulty": 0.375}),
        (GSM8K, "GSM8K", "1+1=", "", {}),
        (MATH, "MATH", "1+1=", "Algebra", {}),
        (TRL, "TRL", "1+1=", "", {}),
        (TRL | {"reference_pass_rate": 0.5}, "TRL", "1+1=", "", {"reference_pass_rate": 0.5}),
    ],
)
def test_a_format_is_recognised_by_its_columns(
    row: dict[str, Any], name: str, prompt: Any, group: str, references: dict[str, float], kind: str, tmp_path: Path
) -> None:
    assert recognise({column: [value] for column, value in row.items()}).name == name
    pool = pool_of(kind, tmp_path, row)
    task = pool[0]
    assert (task.prompt, task.answer, task.group) == (prompt, "2", group)
    assert task.id == ("test/1.json" if row is MATH else task_id(prompt, "2"))
    assert {name: rates[0] for name, rates in pool.features().references.items()} == references
    assert pool.references == tuple(references)  # the weaker model first


def test_every_format_names_its_own_columns() -> None:
    """A column that a format needs is one it reads, and the names differ."""
    for kind in FORMATS:
        read = {name.partition(".")[0] for name in (*kind.prompt, *kind.answer, *kind.references)}
        assert set(kind.needs) <= read
        assert set(kind.counts) <= set(kind.references)
    assert len({kind.name for kind in FORMATS}) == len(FORMATS)


@BOTH
def test_columns_stay_for_reward_functions(kind: str, tmp_path: Path) -> None:
    """Those of verl's compute_score above all."""
    assert pool_of(kind, tmp_path, GURU)[0].columns == {n: v for n, v in GURU.items() if n != "prompt"}
    assert pool_of(kind, tmp_path, GSM8K)[0].columns == {"question": "1+1=", "original_answer": GSM8K["answer"]}
    polaris = pool_of(kind, tmp_path, POLARIS)[0].columns
    assert polaris == {"problem": "1+1=", "difficulty": 0.375, "original_difficulty": "3/8"}


@BOTH
def test_unknown_pass_rates_are_null_nan_or_absent(kind: str, tmp_path: Path) -> None:
    known, unknown = GURU, GURU | {"prompt": [{"role": "user", "content": "2+2="}], "qwen2.5_7b_pass_rate": None}
    weak = pool_of(kind, tmp_path, known, unknown).features().reference("qwen2.5_7b_pass_rate")
    np.testing.assert_array_equal(weak, [0.25, NAN])
    rows = [BIG_MATH | {"llama8b_solve_rate": NAN}, BIG_MATH | {"problem": "2+2="}]
    rates = pool_of(kind, tmp_path, *rows).features().reference("llama8b_solve_rate")
    np.testing.assert_array_equal(rates, [NAN, 0.5])
    rows = [POLARIS | {"problem": str(i), "difficulty": d} for i, d in enumerate([None, "0/8", " 8 / 8 ", ""])]
    rates = pool_of(kind, tmp_path, *rows).features().reference("difficulty")
    np.testing.assert_array_equal(rates, [NAN, 0, 1, NAN])
    without = {name: value for name, value in GURU.items() if name != "qwen3_30b_pass_rate"}
    assert pool_of(kind, tmp_path, without).references == ("qwen2.5_7b_pass_rate",)


@BOTH
def test_references_are_automatic_none_or_those_listed(kind: str, tmp_path: Path) -> None:
    assert pool_of(kind, tmp_path, GURU, references=[]).references == ()
    assert pool_of(kind, tmp_path, GURU, references=["qwen3_30b_pass_rate"]).references == ("qwen3_30b_pass_rate",)
    counts = pool_of(kind, tmp_path, POLARIS, references=["difficulty"])
    assert counts.features().reference("difficulty")[0] == 0.375
    assert pool_of(kind, tmp_path, POLARIS, references=[])[0].columns["difficulty"] == "3/8"
    nested = pool_of(kind, tmp_path, TRL | {"info": {"rate": 0.125}}, references=["info.rate"])
    assert nested.features().reference("info.rate")[0] == 0.125


@BOTH
def test_a_difficulty_that_is_no_count_is_another_data_set(kind: str, tmp_path: Path) -> None:
    """Of Omni-MATH, for one, where it is a mark from 1 to 10."""
    for difficulty in (7.5, "hard"):
        pool = pool_of(kind, tmp_path, POLARIS | {"difficulty": difficulty})
        assert pool.references == ()
        assert pool[0].columns["difficulty"] == difficulty


@BOTH
def test_the_configuration_overrides_what_was_recognised(kind: str, tmp_path: Path) -> None:
    named = {"answer_column": "extra_info.split", "id_column": "extra_info.index", "group_column": "ability"}
    task = pool_of(kind, tmp_path, GURU, **named)[0]
    assert (task.answer, task.id, task.group, task.prompt) == ("train", "7", "math", CHAT)
    assert pool_of(kind, tmp_path, GSM8K, answer_column="answer")[0].answer == GSM8K["answer"]
    assert pool_of(kind, tmp_path, BIG_MATH, prompt_column="source")[0].prompt == "gsm8k"


@BOTH
def test_a_column_with_a_dot_in_its_name_comes_before_a_field(kind: str, tmp_path: Path) -> None:
    row = {"prompt": "p", "a": {"b": "field", "c.d": "dotted field"}, "a.b": "column"}
    assert pool_of(kind, tmp_path, row, answer_column="a.b")[0].answer == "column"
    assert pool_of(kind, tmp_path, row, answer_column="a.c.d")[0].answer == "dotted field"


@BOTH
@pytest.mark.parametrize(("name", "inside"), [("reward_model.truth", "'style': 'rule'"), ("ability.truth", "'math'")])
def test_a_missing_field_is_named_with_what_there_is(name: str, inside: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"no column '{name}'; it has \[.*{inside}.*Set `answer_column`"):
        pool_of(kind, tmp_path, GURU, answer_column=name)


@BOTH
@pytest.mark.parametrize("truth", [["2", "two"], {"inputs": ["1 1"], "outputs": ["é"]}])
def test_answers_that_are_lists_or_objects_become_json(truth: Any, kind: str, tmp_path: Path) -> None:
    task = pool_of(kind, tmp_path, GURU | {"reward_model": {"style": "rule", "ground_truth": truth}})[0]
    assert json.loads(task.answer) == truth
    assert "\\u" not in task.answer
    assert task.columns["reward_model"]["ground_truth"] == truth


def test_gsm8k_s_answer_is_behind_the_last_mark_and_else_the_whole(tmp_path: Path) -> None:
    rows = [{"question": str(i), "answer": text} for i, text in enumerate(["#### 3 #### 1,000 ", "no mark"])]
    assert [task.answer for task in pool_of("jsonl", tmp_path, *rows)] == ["1,000", "no mark"]


@BOTH
def test_groups_may_be_numbers_or_absent_but_no_lists(kind: str, tmp_path: Path) -> None:
    rows = [MATH, MATH | {"unique_id": "2", "level": None}]
    assert pool_of(kind, tmp_path, *rows, group_column="level").groups.tolist() == ["1", ""]
    with pytest.raises(ValueError, match=r"(line 1|row 0): the group is \['Algebra'\]; expected a label"):
        pool_of(kind, tmp_path, BIG_MATH, group_column="domain")


def test_what_was_recognised_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bots_lightning.tasks"):
        pool_of("jsonl", tmp_path, BIG_MATH)
    assert (
        "tasks.jsonl: 1 tasks in the format of Big-Math; prompt from 'problem', answer from 'answer', " in caplog.text
    )
    assert "group from 'source'; references ['llama8b_solve_rate']" in caplog.text


def test_a_configuration_of_one_line_is_enough(tmp_path: Path) -> None:
    pool_of("parquet", tmp_path, MATH)
    parser = ArgumentParser()
    parser.add_argument("--source", type=TaskSource)
    config = {"class_path": "bots_lightning.tasks.ParquetTasks", "init_args": {"path": str(tmp_path / "tasks.parquet")}}
    source = parser.instantiate(parser.parse_args([f"--source={json.dumps(config)}"])).source
    assert source.load()[0].answer == "2"


def test_json_s_nan_is_an_unknown_rate_and_no_answer(tmp_path: Path) -> None:
    assert math.isnan(json.loads(json.dumps(NAN)))
    with pytest.raises(ValueError, match="line 1: the answer is null"):
        pool_of("jsonl", tmp_path, TRL | {"solution": NAN})


@BOTH
def test_columns_that_are_listed_stay_and_no_others(kind: str, tmp_path: Path) -> None:
    row = TRL | {"level": 3, "extra_info": {"index": 1}, "rate": 0.5}
    pool = pool_of(kind, tmp_path, row, columns=["level"], references=["rate"])
    assert pool[0].columns == {"level": 3, "rate": 0.5}
    assert pool_of(kind, tmp_path, row, columns=[])[0].columns == {}
    with pytest.raises(ValueError, match=r"has no column 'grade'; .* Set `columns` to a column of the file\."):
        pool_of(kind, tmp_path, row, columns=["grade"])


def test_files_whose_structs_differ_mix_without_them(tmp_path: Path) -> None:
    """As GURU's logic files do: the answer is text by then."""
    sources = {}
    for name, truth in (("zebra", {"rows": [[1]]}), ("order", ["a", "b"])):
        folder = tmp_path / name
        folder.mkdir()
        row = {"prompt": name, "data_source": name, "reward_model": {"style": "rule", "ground_truth": truth}}
        (folder / "tasks.jsonl").write_text(json.dumps(row))
        sources[name] = JsonlTasks(folder / "tasks.jsonl", answer_column="reward_model.ground_truth", columns=[])
    pool = MixedTasks(sources).load()
    assert [task.answer for task in pool] == ['{"rows": [[1]]}', '["a", "b"]']


@BOTH
def test_rows_that_come_again_are_left_out_if_so_asked(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [TRL | {"prompt": prompt, "level": level} for level, prompt in enumerate("abacab")]
    with pytest.raises(ValueError, match="task ids appear more than once"):
        pool_of(kind, tmp_path, *rows)
    with caplog.at_level(logging.INFO):
        pool = pool_of(kind, tmp_path, *rows, drop_duplicates=True)
    assert [(task.prompt, task.columns["level"]) for task in pool] == [("a", 0), ("b", 1), ("c", 3)]
    assert "3 rows removed whose id had occurred before" in caplog.text
