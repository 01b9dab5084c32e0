from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bots_lightning.evaluation.replay.forecasts import Scores
from bots_lightning.evaluation.replay.report import draw_picture, print_tables, write_json
from bots_lightning.evaluation.replay.report.drawing import picture


def scores_of(ratio: float, effective: float, rmse: float | None, deviation: float | None = 0.01) -> Scores:
    values: Scores = {
        "effective_task_ratio": ratio,
        "first_quarter": 0.111,
        "last_quarter": 0.999,
        "rmse": rmse,
        "log_predictive": None if rmse is None else -1.234,
        "spearman": None,
        "coverage_90": None if rmse is None else 0.876,
        "rmse_all": rmse,
        "log_predictive_all": None if rmse is None else -1.1,
        "coverage_90_all": None if rmse is None else 0.91,
        "distinct_tasks": 300.0,
        "effective_tasks": effective,
        "largest_reuse": 27.0,
    }
    return values | {f"{name}_std": None if value is None else deviation for name, value in values.items()}


def test_tables_show_every_selector_with_its_scores(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_tables({"uniform": scores_of(0.485, 426.4, None), "bots": scores_of(0.788, 227.0, 0.2304)}, "two of them")
    lines = capsys.readouterr().out.splitlines()
    assert "two of them" in "\n".join(lines)
    assert max(map(len, lines)) <= 80
    rows = [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]
    assert rows == [
        ["uniform", "0.485 ±0.010", "0.11", "1.00", "426 ±0", "300", "27"],
        ["bots", "0.788 ±0.010", "0.11", "1.00", "227 ±0", "300", "27"],
        ["uniform", *["–"] * 7],
        ["bots", "0.230", "-1.23", "–", "0.88", "0.230", "-1.10", "0.91"],
    ]


def test_one_seed_has_no_deviation_and_no_belief_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables({"ability_no_reference": scores_of(0.485, 426.4, None, deviation=None)}, "")
    shown = capsys.readouterr().out
    assert "±" not in shown
    assert shown.count("ability_no_reference") == 1


def test_json_holds_settings_and_selectors_and_null_for_nothing(tmp_path: Path) -> None:
    results = {"uniform": scores_of(0.485, 426.4, None)}
    write_json(results, {"seeds": 2}, tmp_path / "new" / "replay.json")
    assert json.loads((tmp_path / "new" / "replay.json").read_text()) == {
        "settings": {"seeds": 2},
        "selectors": results,
        "frontiers": {},
    }


def test_the_picture_has_a_labelled_point_with_bars_for_each_selector() -> None:
    points = {"uniform": (426.0, 0.485), "bots": (227.0, 0.79)}
    results = {name: scores_of(y, x, None, deviation=0.25) for name, (x, y) in points.items()}
    axes = picture(results, "a title").axes[0]
    assert {label.get_text(): label.xy for label in axes.texts} == points  # type: ignore[attr-defined]
    drawn: list[Any] = [container.lines for container in axes.containers]  # type: ignore[attr-defined]
    for (marker, _, bars), (x, y) in zip(drawn, points.values(), strict=True):
        assert marker.get_xydata().tolist() == [[x, y]]
        horizontal, vertical = (bar.get_segments()[0].tolist() for bar in bars)
        assert horizontal == [[x - 0.25, y], [x + 0.25, y]]
        assert vertical == [pytest.approx([x, y - 0.25]), pytest.approx([x, y + 0.25])]
    assert axes.get_title() == "a title"


def test_labels_of_close_points_do_not_cover_each_other() -> None:
    places = {"ability": (243.0, 0.863), "mopps": (243.0, 0.862), "ability_no_reference": (241.0, 0.858)}
    results = {name: scores_of(y, x, None) for name, (x, y) in places.items()}
    figure = picture(results | {"uniform": scores_of(0.48, 426.0, None)})
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    boxes = [label.get_window_extent(canvas.get_renderer()) for label in figure.axes[0].texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_tells_the_format(suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pictures" / f"replay.{suffix}"
    draw_picture({"uniform": scores_of(0.485, 426.4, None, deviation=None)}, path)
    assert path.read_bytes().startswith(magic)
