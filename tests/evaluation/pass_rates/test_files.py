"""A journal holds complete batches only, at whatever byte it was cut off; the table holds what the journals did."""

# Shapes: B tasks in a batch, G rollouts per task.

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bots_lightning.evaluation.pass_rates.files import PassRateFiles
from bots_lightning.evaluation.pass_rates.journal import Count, Journal, lines
from bots_lightning.tasks.pass_rates import journals

RUN = {"model": "m", "seed": 3, "num_generations": 4}
IDS = ["a", "b", "c", "d", "é"]
COUNTS = {"a": Count(4, 1.0), "b": Count(3, 2.5), "c": Count(0, 0.0), "d": Count(4, 0.1 + 0.2), "é": Count(4, 4.0)}
BLOCKS = [["a", "b"], ["c", "d"], ["é"]]
ROWS = [
    {"id": "a", "n": 4, "successes": 1.0, "pass_rate": 0.25, "seed": 3, "model": "m"},
    {"id": "b", "n": 3, "successes": 2.5, "pass_rate": 2.5 / 3, "seed": 3, "model": "m"},
    {"id": "c", "n": 0, "successes": 0.0, "pass_rate": None, "seed": 3, "model": "m"},
    {"id": "d", "n": 4, "successes": 0.1 + 0.2, "pass_rate": (0.1 + 0.2) / 4, "seed": 3, "model": "m"},
    {"id": "é", "n": 4, "successes": 4.0, "pass_rate": 1.0, "seed": 3, "model": "m"},
]


def files(folder: Path, completions: Path | None = None, **changes: Any) -> PassRateFiles:
    return PassRateFiles(folder / "t.parquet", RUN | changes, completions)


def append(journal: Journal, *blocks: int, **kept: Any) -> None:
    for block in blocks:
        ids = BLOCKS[block]
        journal.append(2 * block, ids, [COUNTS[task] for task in ids], **kept)
    journal.close()


def test_a_journal_that_was_cut_off_at_any_byte_holds_the_batches_before(tmp_path: Path) -> None:
    append(files(tmp_path).journal(0), 0, 1)
    (path,) = journals(tmp_path / "t.parquet")
    complete = path.read_bytes()
    ends = [line.end for line in lines(path)]
    assert (len(ends), ends[-1]) == (3, len(complete))
    for size in range(len(complete) + 1):
        path.write_bytes(complete[:size])
        kept = sum(end <= size for end in ends[1:])
        assert list(files(tmp_path).measured()) == IDS[: 2 * kept]
        append(files(tmp_path).journal(0), *range(kept, 2))
        assert path.read_bytes() == complete


def test_blocks_of_zeros_behind_the_last_line_are_cut_off_too(tmp_path: Path) -> None:
    append(files(tmp_path).journal(0), 0)
    (path,) = journals(tmp_path / "t.parquet")
    with path.open("ab") as file:
        file.write(bytes(512) + b"\n")
    assert list(files(tmp_path).measured()) == ["a", "b"]
    append(files(tmp_path).journal(0), 1)
    assert files(tmp_path).measured() == {task: COUNTS[task] for task in "abcd"}


def test_damage_before_the_last_line_is_an_error(tmp_path: Path) -> None:
    append(files(tmp_path).journal(0), 0, 1)
    (path,) = journals(tmp_path / "t.parquet")
    header, first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + first[:9] + b"\n" + second)
    with pytest.raises(ValueError, match=rf"t.rank-0.jsonl is damaged at byte {len(header)} .*Delete it"):
        files(tmp_path).measured()


def test_what_is_measured_grows_while_other_ranks_write(tmp_path: Path) -> None:
    reader = files(tmp_path)
    journal = reader.journal(1)
    assert reader.measured() == {}
    journal.append(2, BLOCKS[1], [COUNTS["c"], COUNTS["d"]])
    assert list(reader.measured()) == ["c", "d"]
    append(reader.journal(0), 0)
    append(journal, 2)
    assert reader.measured() == COUNTS


def test_the_table_has_the_order_of_the_pool_and_replaces_the_journals(tmp_path: Path) -> None:
    append(files(tmp_path).journal(0), 2, 0)
    append(files(tmp_path).journal(1), 1, 0)  # a batch that two ranks had
    table = files(tmp_path).finish(IDS)
    assert table.to_pylist() == ROWS
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
    assert files(tmp_path).measured() == COUNTS
    written = (tmp_path / "t.parquet").stat().st_mtime_ns
    assert files(tmp_path).finish(IDS).to_pylist() == ROWS
    assert (tmp_path / "t.parquet").stat().st_mtime_ns == written


def test_tasks_that_were_not_tried_are_null_until_a_later_run_tries_them(tmp_path: Path) -> None:
    append(files(tmp_path).journal(0), 1)
    table = files(tmp_path).finish(IDS)
    assert table["n"].to_pylist() == [None, None, 0, 4, None]
    assert table["successes"].to_pylist() == [None, None, 0.0, 0.1 + 0.2, None]
    assert table["pass_rate"].null_count == 4
    assert list(files(tmp_path).measured()) == ["c", "d"]
    append(files(tmp_path).journal(0), 0, 2)
    assert files(tmp_path).finish(IDS).to_pylist() == ROWS


@pytest.mark.parametrize("done", [False, True])
def test_another_run_is_refused_and_its_files_are_kept_unless_they_may_be_replaced(done: bool, tmp_path: Path) -> None:
    append(files(tmp_path).journal(0), 0, 1, 2)
    if done:
        files(tmp_path).finish(IDS)
    other = files(tmp_path, seed=4, temperature=0.5)
    message = r"of another run: seed=3 there, 4 here, temperature=None there, 0.5 here. Set another `file`, or `overwr"
    with pytest.raises(ValueError, match=message):
        other.measured()
    files(tmp_path).discard_others()  # its own
    assert files(tmp_path).measured() == COUNTS
    other.discard_others()
    assert list(tmp_path.iterdir()) == []
    assert other.measured() == {}


def test_a_table_of_unknown_origin_is_not_overwritten(tmp_path: Path) -> None:
    append(files(tmp_path).journal(0), 0, 1, 2)
    table = files(tmp_path).finish(IDS)
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t.parquet was not written by PassRateWriter"):
        files(tmp_path).measured()


def test_completions_are_written_in_the_order_of_the_pool(tmp_path: Path) -> None:
    path = tmp_path / "texts" / "c.jsonl"
    for rank, block in enumerate([2, 0, 1]):
        texts = [[f"{task} 0", "\u2028\nü"] for task in BLOCKS[block]]
        rewards = [[1.0, None] for _ in BLOCKS[block]]
        append(files(tmp_path, path).journal(rank), block, completions=texts, rewards=rewards)
    files(tmp_path, path).finish(IDS)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["task_id"] for row in rows] == [task for task in IDS for _ in range(2)]
    assert rows[8:] == [
        {"task_id": "é", "completion": "é 0", "reward": 1.0},
        {"task_id": "é", "completion": "\u2028\nü", "reward": None},
    ]
