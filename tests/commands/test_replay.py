"""`bots-lightning replay`, from the command line to its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning import Trainer

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.cli import main
from bots_lightning.commands.replay import load_selectors
from bots_lightning.selection import TaskSelector, ThompsonSelector

ROOT = Path(__file__).parents[2]
BATCH_SCORES = {"rmse", "log_predictive", "spearman", "coverage_90"}
POOL_SCORES = {"rmse_all", "log_predictive_all", "coverage_90_all"}
DIVERSITY = {"distinct_tasks", "effective_tasks", "largest_reuse"}
SCORES = (
    {"effective_task_ratio", "mixed_per_1000_rollouts", "seen_fraction", "first_quarter", "last_quarter"}
    | BATCH_SCORES
    | POOL_SCORES
    | DIVERSITY
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the configs and a small record, and the process in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    rates = rng.beta(0.7, 0.7, 30)
    rows = [
        {
            "task_id": f"t{row}",
            "prompt": "?",
            "answer": "!",
            "reference_pass_rate": float(np.sqrt(rate)),
            "successes": rng.binomial(8, rate, 6).tolist(),
            "rollouts": 8,
        }
        for row, rate in enumerate(rates)
    ]
    (tmp_path / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_overlays_are_compared(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["uniform", "bots", "bots_explicit", "bots_implicit"]
    files = ["--output", "out/replay.json", "--picture", "out/replay.png"]
    main(["replay", "--data", "record.jsonl", "--selectors", *names, "--seeds", "2", "--batch_size", "4", *files])
    result = json.loads((project / "out" / "replay.json").read_text())
    assert list(result["selectors"]) == names
    for scores in result["selectors"].values():
        assert set(scores) == {name + suffix for name in SCORES for suffix in ("", "_std")}
        assert 0 < scores["effective_task_ratio"] < 1
    assert result["settings"]["steps"] == 5 * 4
    assert -1 <= result["settings"]["forgetting"] <= 1
    assert result["selectors"]["uniform"]["rmse"] is None
    assert result["selectors"]["bots"]["log_predictive"] < 0
    # Twenty steps of 4 from 30 tasks without replacement: two epochs, and 20 tasks a third time.
    assert result["selectors"]["uniform"]["largest_reuse"] == 3
    shown = capsys.readouterr().out
    assert "30 tasks, 20 steps of 4, 2 seeds" in shown
    assert all(shown.count(f"\n{name} ") == 2 for name in names)
    assert (project / "out" / "replay.png").read_bytes().startswith(b"\x89PNG")


def test_all_overlays_by_default_and_a_file_by_its_path(project: Path) -> None:
    assert {"uniform", "bots", "bots_explicit", "bots_implicit"} <= set(load_selectors(None))
    (project / "mine.yaml").write_text((ROOT / "configs/selectors/bots.yaml").read_text().replace("0.5", "0.25"))
    selector = load_selectors([str(project / "mine.yaml")])["mine"]
    assert isinstance(selector, ThompsonSelector)
    assert selector.target_pass_rate == 0.25


def draws(selector: TaskSelector) -> list[list[int]]:
    """What it selects in six steps on a made-up pool."""
    rng = np.random.default_rng(1)
    references = {"weak_pass_rate": rng.random(50), "strong_pass_rate": rng.random(50)}
    selector.setup(TaskFeatures(50, references), seed=3)
    drawn = []
    for _ in range(6):
        chosen = selector.select(5)
        drawn.append(chosen.tolist())
        selector.observe(Evidence(chosen, chosen % 9, np.full(5, 8)))
    return drawn


@pytest.mark.parametrize("name", ["uniform", "bots", "bots_implicit"])
def test_the_selector_is_the_one_that_trains(name: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: dict[str, Any] = {}
    monkeypatch.setattr(Trainer, "fit", lambda self, model, datamodule=None, **_: built.update(data=datamodule))
    stack = ["--config", "configs/quickstart.yaml", "--config", f"configs/selectors/{name}.yaml"]
    main(["fit", *stack, "--runs_dir", str(project)])
    replayed = load_selectors([name])[name]
    assert type(replayed) is type(built["data"].selector)
    assert draws(replayed) == draws(built["data"].selector)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("model:\n  sampler:\n    num_generations: 1\n", "mine.yaml has no data.selector"),
        ("data: [", "mine.yaml is not YAML"),
        ("data: {selector: {class_path: no.such.Selector}}", "mine.yaml: the selector cannot be built"),
    ],
)
def test_a_wrong_overlay_is_named(overlay: str, message: str, project: Path) -> None:
    (project / "mine.yaml").write_text(overlay)
    with pytest.raises(ValueError, match=message):
        load_selectors(["mine.yaml"])


def test_the_same_name_twice_is_an_error(project: Path) -> None:
    with pytest.raises(ValueError, match="two selectors are called 'bots'"):
        load_selectors(["bots", "configs/selectors/bots.yaml"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "gone.jsonl"], "gone.jsonl is not a file"),
        (["--data", "record.jsonl", "--selectors", "nobody"], "nobody.yaml is not a file"),
        (["--data", "record.jsonl", "--batch_size", "31"], "batch_size=31 does not fit the pool of 30 tasks"),
        (["--data", "record.jsonl", "--seeds", "0"], "seeds"),
        (["--data", "record.jsonl", "--selectors", "bots", "--weak", "none"], "no reference column 'weak_pass_rate'"),
        (["--selectors", "bots"], "data"),
    ],
)
def test_a_mistake_ends_the_command_with_what_to_do(
    options: list[str], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["replay", *options])
    assert exit_.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_no_overlays_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no overlays in configs/selectors .*name files"):
        load_selectors(None)


def test_help_lists_the_command_and_its_options(program: Any) -> None:
    def shown(*words: str) -> str:
        code, printed, _ = program(*words)
        assert code == 0
        return " ".join(printed.split())

    assert "replay Compare selectors on a recorded run" in shown("--help")
    options = shown("replay", "--help")
    assert "bots-lightning replay --data trajectories.jsonl --selectors uniform bots" in options
    for option in (
        "--selectors",
        "--seeds",
        "--batch_size",
        "--selections_per_epoch",
        "--output",
        "--picture",
        "--weak",
    ):
        assert option in options
