"""The report counts what the table says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bots_lightning.evaluation.pass_rates.report import draw_picture, histogram, report


def table(rates: list[float | None], tried: int) -> pa.Table:
    n = [4] * tried + [None] * (len(rates) - tried)
    return pa.table({"n": n, "pass_rate": pa.array(rates, pa.float64()), "model": ["m"] * len(rates)})


@pytest.mark.parametrize("n", range(1, 33))
def test_a_rate_lies_in_the_bin_that_opens_with_it(n: int) -> None:
    counts = histogram(np.arange(n + 1) / n)
    assert counts.tolist() == np.bincount([min(10 * k // n, 9) for k in range(n + 1)], minlength=10).tolist()


def test_the_report_by_hand() -> None:
    text = report(table([0.0, 1.0, 0.25, 0.25, None, None], tried=5), Path("t.parquet"))
    facts = {line[:18].strip(): line[18:] for line in text.splitlines()}
    assert facts["tasks"] == "6"
    assert facts["unknown (null)"] == "2, 1 of them not tried"
    assert facts["mean pass rate"] == "0.375"  # (0 + 1 + ¼ + ¼) / 4
    assert (facts["always solved"], facts["never solved"]) == ("25.0%", "25.0%")
    assert facts["0.2 to 0.3"] == "█" * 40 + " 2"
    assert facts["0.9 to 1.0"].split() == ["█" * 20, "1"]
    assert facts["0.5 to 0.6"].split() == ["0"]
    assert facts["file"] == "t.parquet"
    assert len(text.splitlines()) == 3 + 3 + 10 + 1


def test_where_nothing_is_known_there_is_no_histogram() -> None:
    text = report(table([None, None], tried=2), Path("t.parquet"))
    assert [line.split()[0] for line in text.splitlines()] == ["model", "tasks", "unknown", "file"]
    assert "not tried" not in text


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    draw_picture(table([0.0, 0.5, None], tried=3), tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
