# Shapes: E evaluations.

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from bots_lightning.commands.compare import describe
from bots_lightning.evaluation.comparison.comparison import compare_to_baseline
from bots_lightning.evaluation.comparison.report import draw_picture, print_tables, write_json
from bots_lightning.evaluation.comparison.report.drawing import picture, running_mean
from bots_lightning.evaluation.comparison.report.verdicts import notes, verdict
from bots_lightning.evaluation.comparison.run_files import AXES
from bots_lightning.evaluation.comparison.run_records import SUMMARY_METRICS, RunRecord

UP, SLOW, FLAT = [0.2, 0.3, 0.4, 0.5, 0.6], [0.2, 0.2, 0.3, 0.3, 0.4], [0.2, 0.1, 0.1, 0.2, 0.1]


def runs_of(method: str, curves: Sequence[Sequence[float]]) -> list[RunRecord]:
    iterations = np.arange(5) * 10
    costs = dict.fromkeys(AXES, iterations * 100.0)
    steps, ratios = np.arange(1, 41), np.tile([0.25, 0.75], 20)
    summary: dict[str, float | None] = dict.fromkeys(SUMMARY_METRICS, 0.5)
    return [
        RunRecord(
            Path(f"runs/{method}-{seed}"),
            method,
            seed,
            summary,
            ("eval/heldout/avg@4",),
            iterations,
            np.array(scores) + 0.001 * seed,
            costs,
            steps,
            steps * 100.0,
            ratios,
        )
        for seed, scores in enumerate(curves)
    ]


def result_of(**methods: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A comparison with `uniform`; each method has the seeds 0, 1, …."""
    runs = {name: runs_of(name, curves) for name, curves in methods.items()}
    return {
        "settings": {
            "baseline": "uniform",
            "score": ["eval/heldout/avg@4"],
            "iterations": [0, 10, 20, 30, 40],
            "interpolate": False,
        },
        "warnings": ["a [bold] one"],
        "methods": {name: describe(of) for name, of in runs.items()},
        "comparisons": {
            name: compare_to_baseline(list(zip(of, runs["uniform"], strict=False)))
            for name, of in runs.items()
            if name != "uniform"
        },
    }


def shown(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_tables(result)
    return capsys.readouterr().out.splitlines()


def cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]


def test_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(result_of(uniform=[SLOW, SLOW, UP], bots_explicit=[UP, FLAT, UP]), capsys)
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    text = " ".join(" ".join(lines).split())
    assert "TTB bots_explicit / uniform, mean of 3 paired seeds, 95 % interval" in text
    assert "Warning: a [bold] one" in text


def test_tables_show_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = cells(shown(result_of(uniform=[SLOW, SLOW], bots=[UP, UP]), capsys))
    # SLOW + 0.001 s: 0.4 and 0.401. UP is 0.2 higher at the end.
    assert ["bots", "2", "0.601 ±0.001", "+0.200", "+0.200 to +0.200"] in rows
    assert ["uniform", "2", "0.401 ±0.001", "–", "–"] in rows
    assert ["bots", "0.500", "0.5", "0 ±0", "0", "0.500", "50.00%"] in rows
    assert ["forgetting", "+0.000", "+0.000 to +0.000"] in rows
    # SLOW has its best at 10: 0.2, as before training; at 20: 0.3, which UP has at 10; at 40: 0.4, UP at 20.
    assert ["rollouts", "–", "0.50 0.50–0.50", "0.50 0.50–0.50", "0.50 0.50–0.50"] in rows
    assert ["rollouts", "–", "0.50 2/2", "0.50 2/2", "0.50 2/2"] in rows
    # 0.3 / 0.2, 0.4 / 0.3, 0.5 / 0.3 (with seed 1: 0.501 / 0.301 = 1.664), 0.6 / 0.4.
    assert ["rollouts", "1.50 1.50–1.50", "1.33 1.33–1.33", "1.67 1.66–1.67", "1.50 1.50–1.50"] in rows


def test_never_reached_is_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of(uniform=[UP, UP], bots=[FLAT, UP])
    lines = shown(result, capsys)
    # The mean curve has 0.35 at its third evaluation and no more; seed 1 alone is as fast as the baseline.
    assert ["steps", "3.00 1.00–∞", "≥2.00 1.00–∞", "≥1.33 1.00–∞", "≥1.00 1.00–∞"] in cells(lines)
    # Seed 0 would have taken at least 40 / 10; the median of that and 1 is 2.5.
    assert ["steps", "≥2.50 1/2", "≥1.50 1/2", "≥1.17 1/2", "≥1.00 1/2"] in cells(lines)
    assert any(line.startswith("≥: never reached") for line in lines)


def test_one_seed_has_neither_deviation_nor_interval(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(result_of(uniform=[UP], bots=[UP]), capsys)
    assert ["bots", "1", "0.600", "+0.000", "–"] in cells(lines)
    assert ["steps", "1.00", "1.00", "1.00", "1.00"] in cells(lines)
    assert not any("∞" in line for line in lines)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (UP, SLOW, ("0.50 0.50–0.50: faster", "+0.200 (+0.200 to +0.200): better")),
        (SLOW, UP, ("≥1.00 ∞–∞: slower", "-0.200 (-0.200 to -0.200): worse")),
        (UP, UP, ("1.00 1.00–1.00: not shown to differ", "+0.000 (+0.000 to +0.000): not shown to differ")),
        (UP, FLAT, ("–: not shown to differ", "+0.500 (+0.500 to +0.500): better")),
    ],
)
def test_the_verdict_of_five_seeds(ours: list[float], theirs: list[float], expected: tuple[str, str]) -> None:
    said = verdict("bots", "uniform", result_of(uniform=[theirs] * 5, bots=[ours] * 5)["comparisons"]["bots"])
    assert said == f"bots against uniform: rollouts to uniform's best score {expected[0]}; final score {expected[1]}."


def test_seeds_that_disagree_or_are_few_give_no_verdict() -> None:
    mixed = result_of(uniform=[SLOW, UP, SLOW, UP, UP], bots=[UP, SLOW, UP, SLOW, UP])["comparisons"]["bots"]
    assert verdict("bots", "uniform", mixed).count("not shown to differ") == 2
    few = result_of(uniform=[SLOW] * 4, bots=[UP] * 4)["comparisons"]["bots"]
    assert verdict("bots", "uniform", few).endswith("; 4 paired seeds, too few for a verdict.")
    assert "faster" not in verdict("bots", "uniform", few)
    none = compare_to_baseline([])
    assert verdict("bots", "uniform", none) == "bots: no seed in common with uniform, so no verdict."


def test_notes_say_what_there_is_reason_to_say() -> None:
    calm = list(notes(result_of(uniform=[SLOW] * 5, bots=[UP] * 5) | {"warnings": []}))
    assert [line.split()[0] for line in calm] == ["Score:", "–:"]  # SLOW has no gain at 25 %
    assert "5 evaluations, at iterations 0 to 40." in calm[0]
    few = " ".join(notes(result_of(uniform=[SLOW, UP], bots=[UP, UP], mopps=[UP, UP])))
    assert "fewer than 5 seeds are too narrow" in few
    assert "of 2, one may err more easily" in few
    assert "leave out resamples in which the baseline had not improved, up to 25 %" in few


def test_json_is_the_result_without_nan(tmp_path: Path) -> None:
    result = result_of(uniform=[UP, FLAT], bots=[FLAT, UP])
    write_json(result, tmp_path / "new" / "compare.json")
    assert json.loads((tmp_path / "new" / "compare.json").read_text()) == result
    broken = deepcopy(result) | {"warnings": [float("nan")]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(broken, tmp_path / "broken.json")


def test_the_picture_has_a_line_per_method_in_both_panels_and_bands() -> None:
    figure = picture(result_of(uniform=[SLOW, SLOW, UP], bots=[UP, UP, UP], mopps=[UP]))
    scores, ratios = figure.axes
    assert [line.get_label() for line in scores.lines] == ["uniform (3 seeds)", "bots (3 seeds)", "mopps (1 seed)"]
    colors = [line.get_color() for line in scores.lines]
    assert colors == [line.get_color() for line in ratios.lines]
    assert len(set(colors)) == 3
    mean = np.mean([np.array(SLOW), np.array(SLOW) + 0.001, np.array(UP) + 0.002], axis=0)
    assert scores.lines[0].get_xydata() == pytest.approx(np.column_stack([np.arange(5) * 1000, mean]))
    assert len(scores.collections) == 2  # a single seed has no band
    assert tuple(scores.collections[0].get_facecolor()[0]) == pytest.approx(to_rgba(colors[0], 0.15))  # type: ignore[index]
    # 3 seeds: the band spans the single seeds; at the end 0.4 and 0.602.
    ends = [y for x, y in scores.collections[0].get_paths()[0].vertices.tolist() if x == 4000]  # type: ignore[union-attr]
    assert (min(ends), max(ends)) == pytest.approx((0.4, 0.602))
    assert "95 % interval" in scores.get_title()
    assert ratios.get_ylabel() == "effective task ratio, running mean over 2 steps"
    assert "bootstrap" not in picture(result_of(uniform=[UP], bots=[UP])).axes[0].get_title()


def test_more_methods_than_colours_differ_by_their_lines() -> None:
    names = ["uniform", *(f"m{i}" for i in range(8))]
    lines = picture(result_of(**{name: [UP] for name in names})).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9


def test_running_mean_by_hand() -> None:
    assert running_mean([1.0, 2.0, 3.0, 4.0], 1) == [1, 2, 3, 4]
    assert running_mean([1.0, 2.0, 6.0, 4.0], 3) == pytest.approx(
        [(1 + 2) / 2, (1 + 2 + 6) / 3, (2 + 6 + 4) / 3, 10 / 2]
    )
    assert running_mean([0.7] * 9, 4) == pytest.approx([0.7] * 9)
    assert running_mean([], 1) == []


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_is_the_format(suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pictures" / f"compare.{suffix}"
    draw_picture(result_of(uniform=[UP], bots=[UP]), path)
    assert path.read_bytes().startswith(magic)
