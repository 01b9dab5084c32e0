"""`summary.json` is what the run has come to, and the clock survives a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.algorithms.step import PHASES
from bots_lightning.evaluation import CountHistogram
from bots_lightning.selection import UniformSelector
from callbacks import EffectiveTaskRatio, RunSummary, SelectionOverhead

BEFORE = {"eval/heldout/avg@4": 0.25, "eval/heldout/pass@4": 0.5, "eval/heldout/maths/avg@4": 0.9}
PEAK = {"eval/heldout/avg@4": 0.5, "eval/heldout/pass@4": 0.5, "eval/heldout/maths/avg@4": 0.0}
AFTER = {"eval/heldout/avg@4": 0.375, "eval/heldout/pass@4": 0.75, "eval/heldout/maths/avg@4": 1.0}
EVALUATIONS = [
    {"iteration": iteration, "overall": scores["eval/heldout/avg@4"], "scores": scores}
    for iteration, scores in ((0, BEFORE), (20, PEAK), (40, AFTER))
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time."""
    now = [0.0]
    monkeypatch.setattr("callbacks.run_summary.time.perf_counter", lambda: now[0])

    def set_to(seconds: float) -> None:
        now[0] = seconds

    return set_to


def module(evaluations: list[dict[str, Any]] | None = None) -> Any:
    evaluations = EVALUATIONS if evaluations is None else evaluations
    progress = SimpleNamespace(iterations=40, rollouts=5120, generated_tokens=61_440)
    return SimpleNamespace(seed=7, progress=progress, history=evaluations)


def trainer(folder: Path, callbacks: list[Any], first: bool = True) -> Any:
    selected = CountHistogram(np.array([2, 1, 1, 0]))
    datamodule = SimpleNamespace(selector=UniformSelector(), count_histogram=selected)
    return SimpleNamespace(
        default_root_dir=str(folder), callbacks=callbacks, datamodule=datamodule, is_global_zero=first
    )


def siblings() -> tuple[EffectiveTaskRatio, SelectionOverhead]:
    """Two that have seen 3 mixed tasks of 4, and 1 second of selection in 8."""
    ratio, overhead = EffectiveTaskRatio(), SelectionOverhead()
    ratio.load_state_dict(
        {"mixed": 3.0, "selected": 4.0, "rollouts": 40.0, "by_group": {"a": (1.0, 2.0), "b": (2.0, 2.0)}}
    )
    overhead.load_state_dict({"selection_seconds": 1.0, "step_seconds": 8.0})
    return ratio, overhead


def finish(folder: Path, module: Any, summary: RunSummary | None = None, **options: Any) -> dict[str, Any]:
    """A run from start to end; what it wrote."""
    summary = summary or RunSummary(table=False)
    run = trainer(folder, [*siblings(), summary], **options)
    summary.setup(run, module, "fit")
    summary.on_train_start(run, module)
    summary.on_train_end(run, module)
    summary.on_fit_end(run, module)
    path = folder / "summary.json"
    return json.loads(path.read_text(), parse_constant=refuse) if path.exists() else {}


def step(summary: RunSummary, ahead: float = 0.0, **seconds: float) -> None:
    """One training step whose phases took so long; the others nothing."""
    timings = dict.fromkeys(PHASES, 0.0) | seconds
    outputs = {"timings": timings | {"step": 99.0, "ahead": ahead}}
    summary.on_train_batch_end(None, None, outputs, None, 0)  # type: ignore[arg-type]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_the_summary_of_a_run(tmp_path: Path, clock: Callable[[float], None]) -> None:
    assert finish(tmp_path / "run", module()) == {
        "seed": 7,
        "selector": "UniformSelector",
        "iterations": 40,
        "rollouts": 5120,
        "generated_tokens": 61_440,
        "wall_seconds": 0.0,
        "tokens_per_second": None,
        "rollout_tokens_per_second": None,
        "timing_s": {},
        "rollout_ahead_s": 0.0,
        "effective_task_ratio": 0.75,
        "effective_task_ratio_by_group": {"a": 0.5, "b": 1.0},
        "mixed_per_1000_rollouts": 75.0,
        "selection_overhead_fraction": 0.125,
        "pool_tasks": 4,
        "distinct_tasks": 3,
        "seen_fraction": 0.75,
        "effective_tasks": pytest.approx(2**1.5),  # shares 1/2, 1/4, 1/4
        "forgetting": None,
        "belief": None,
        "evaluation": {"before": EVALUATIONS[0], "after": EVALUATIONS[2], "best": EVALUATIONS[1]},
    }


def test_the_best_evaluation_is_the_best_overall(tmp_path: Path) -> None:
    evaluations = [
        {"iteration": 0, "overall": 0.45, "scores": {"eval/a/avg@4": 0.9, "eval/b/avg@4": 0.0}},
        {"iteration": 1, "overall": 0.5, "scores": {"eval/a/avg@4": 0.5, "eval/b/avg@4": 0.5}},
        {"iteration": 2, "overall": 0.35, "scores": {"eval/a/avg@4": 0.1, "eval/b/avg@4": 0.6}},
    ]
    assert finish(tmp_path, module(evaluations))["evaluation"]["best"]["iteration"] == 1


@pytest.mark.parametrize(("first", "last"), [(3, 40), (0, 39), (3, 3)])
def test_an_evaluation_on_the_way_is_neither_before_nor_after(
    first: int, last: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluations = [EVALUATIONS[0] | {"iteration": first}, EVALUATIONS[2] | {"iteration": last}]
    written = finish(tmp_path, module(evaluations), RunSummary(table=True))["evaluation"]
    assert written["before"] == (evaluations[0] if first == 0 else None)
    assert written["after"] == (evaluations[1] if last == 40 else None)
    assert written["best"] == evaluations[1]
    shown = [("0.250" if first == 0 else "–"), ("0.375" if last == 40 else "–"), "–"]
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert (["heldout/avg@4", *shown] in lines) == (first == 0 or last == 40)


def test_an_evaluation_without_a_score_is_not_the_best(tmp_path: Path) -> None:
    evaluations = [EVALUATIONS[0] | {"overall": float("nan")}, EVALUATIONS[2]]
    assert finish(tmp_path, module(evaluations))["evaluation"]["best"] == EVALUATIONS[2]


def test_forgetting_is_that_after_the_last_iteration_and_a_mean_over_held_out_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = {"eval/one/forgetting": 0.125, "eval/one/maths/forgetting": 0.5, "eval/other/forgetting": -0.0625}
    evaluations = [EVALUATIONS[0], EVALUATIONS[2] | {"scores": AFTER | after}]
    assert finish(tmp_path / "run", module(evaluations), RunSummary(table=True))["forgetting"] == 0.03125
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["one/maths/forgetting", "–", "0.500", "–"] in lines
    earlier = [evaluations[0], evaluations[1] | {"iteration": 30}]
    assert finish(tmp_path / "other", module(earlier))["forgetting"] is None


def test_what_is_missing_is_null(tmp_path: Path) -> None:
    summary, bare = RunSummary(), module([])
    run = trainer(tmp_path, [EffectiveTaskRatio(), SelectionOverhead(), summary])
    summary.setup(run, bare, "fit")
    summary.on_fit_end(run, bare)
    written = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert written["evaluation"] == {"before": None, "after": None, "best": None}
    assert written["effective_task_ratio"] is None
    assert written["selection_overhead_fraction"] is None


def test_a_score_that_is_not_a_number_is_null(tmp_path: Path) -> None:
    scores = {"eval/heldout/avg@4": 0.5, "eval/heldout/pass@4": float("nan")}
    written = finish(tmp_path, module([{"iteration": 0, "overall": 0.5, "scores": scores}]), RunSummary(table=True))
    assert written["evaluation"]["before"]["scores"] == {"eval/heldout/avg@4": 0.5, "eval/heldout/pass@4": None}


def test_the_clock_runs_while_training_does_and_continues_after_a_resume(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    first, second = RunSummary(table=False), RunSummary(table=False)
    run = trainer(tmp_path, [*siblings(), first, second])
    for summary in (first, second):
        summary.setup(run, module(), "fit")
    clock(100.0)
    first.on_train_start(run, module())
    clock(130.0)
    saved = first.state_dict()
    assert saved == {"wall_seconds": 30.0, "ahead_seconds": 0.0, "steps": 0, "phase_seconds": {}}
    clock(140.0)
    first.on_train_end(run, module())
    clock(5000.0)
    assert first.summarize(run, module())["wall_seconds"] == 40.0
    second.load_state_dict(saved)
    second.on_train_start(run, module())
    clock(5007.0)
    second.on_train_end(run, module())
    clock(9000.0)
    assert second.summarize(run, module())["wall_seconds"] == 37.0


def test_the_table_shows_before_after_and_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(tmp_path / "my-run", module(), RunSummary(table=True))
    printed = capsys.readouterr().out
    lines = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["heldout/avg@4", "0.250", "0.375", "+0.125"] in lines
    assert ["heldout/maths/avg@4", "0.900", "1.000", "+0.100"] in lines
    assert "my-run: 40 iterations" in printed
    assert "effective task ratio        0.750 (a 0.50, b 1.00)" in printed
    assert "mixed groups                75.0 per 1,000 rollouts" in printed
    assert "tasks seen / effective      3 / 3 of 4 (75.0% seen)" in printed
    assert "selection overhead          12.500 %" in printed


def test_the_profile_is_a_mean_over_steps_and_continues_after_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed, summary = RunSummary(), RunSummary()
    step(killed, ahead=3.0, rollout=1.0, backward=2.0)
    torch.save(killed.state_dict(), tmp_path / "callback.ckpt")
    step(summary, rollout=100.0)  # to be overwritten
    summary.load_state_dict(torch.load(tmp_path / "callback.ckpt", weights_only=True))
    step(summary, ahead=4.0, rollout=4.0, sync=0.998, select=0.002)
    written = finish(tmp_path, module(), summary)
    means = {"rollout": 2.5, "backward": 1.0, "sync": 0.499, "select": 0.001}
    assert written["timing_s"] == pytest.approx(dict.fromkeys(PHASES, 0.0) | means)
    assert written["tokens_per_second"] == pytest.approx(61_440 / 8)
    printed = capsys.readouterr().out
    assert "step                           4.000 s          7,680 tokens/s, all phases\n" in printed
    assert "  rollout                      2.500 s  62.5 %\n" in printed
    assert "  backward                     1.000 s  25.0 %\n" in printed
    assert "  sync                         0.499 s  12.5 %\n" in printed
    assert "  rollout, asynchronous        3.500 s\n" in printed
    assert written["rollout_ahead_s"] == 3.5
    assert written["rollout_tokens_per_second"] is None  # rollouts are asynchronous
    assert "  select" not in printed  # less than a thousandth
    assert "  reward" not in printed


def test_the_speed_of_rollouts_is_not_that_of_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where little is generated and much is learned, tokens of the whole step tell little of the engine."""
    summary = RunSummary()
    step(summary, rollout=40.0, backward=24_536.0)
    written = finish(tmp_path, module(), summary)
    assert written["tokens_per_second"] == 2.5
    assert written["rollout_tokens_per_second"] == 1536.0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["step", "24576.000", "s", "2.5", "tokens/s,", "all", "phases"] in printed
    assert ["rollout", "40.000", "s", "0.2", "%", "1,536", "tokens/s"] in printed


def test_without_the_table_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(tmp_path, module(), RunSummary(table=False))
    assert capsys.readouterr().out == ""


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    assert finish(tmp_path, module(), first=False) == {}


@pytest.mark.parametrize(
    ("present", "absent"),
    [(SelectionOverhead, "callbacks.EffectiveTaskRatio"), (EffectiveTaskRatio, "callbacks.SelectionOverhead")],
)
def test_a_missing_sibling_is_named(tmp_path: Path, present: type[Any], absent: str) -> None:
    summary = RunSummary()
    with pytest.raises(ValueError, match=f"RunSummary needs {absent}; add it to trainer.callbacks"):
        summary.setup(trainer(tmp_path, [present(), summary]), module(), "fit")
