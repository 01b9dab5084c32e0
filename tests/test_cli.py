"""The commands, end to end on a few steps."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bots_lightning.checkpoints import append_text
from bots_lightning.cli import main, run
from bots_lightning.evaluation import read_metrics
from bots_lightning.rewards import RewardFunctionError, Scorer
from bots_lightning.tasks import Task
from bots_lightning.training import StepFailedError

ROOT = Path(__file__).parents[1]
FEW_STEPS = ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(ROOT / "tests/assets/few_steps.yaml")]
Command = Callable[..., None]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Command:
    """Runs a command in an empty folder, on the quickstart with few steps."""
    monkeypatch.chdir(tmp_path)
    return lambda name, *options: main([name, *FEW_STEPS, *options])


def test_fit_leaves_a_complete_run_folder(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("fit")
    run = tmp_path / "runs" / "quickstart"
    names = {path.name for path in run.iterdir()}
    assert names == {"config.yaml", "metrics.csv", "summary.json", "completions.jsonl", "checkpoints", "tensorboard"}
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["seed"], summary["iterations"], summary["rollouts"]) == (0, 2, 2 * 8 * 2)
    assert 0 <= summary["effective_task_ratio"] <= 1
    assert 0 < summary["selection_overhead_fraction"] < 1
    assert [summary["evaluation"][when]["iteration"] for when in ("before", "after")] == [0, 2]
    rows = read_metrics(run / "metrics.csv")
    assert [row["step"] for row in rows if "reward" in row] == [1, 2]
    assert [row["step"] for row in rows if "eval/heldout/avg@2" in row] == [0, 1, 2]
    assert {"selection/effective_task_ratio", "selection/overhead_fraction", "frac_reward_zero_std"} <= set(rows[1])
    assert len(rows) == 3
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["algorithm"]["class_path"].endswith("GRPO")
    printed = capsys.readouterr().out
    assert "effective task ratio" in printed
    assert "heldout/avg@2" in printed


def test_a_second_run_takes_a_folder_of_its_own(command: Command, tmp_path: Path) -> None:
    command("fit")
    first = (tmp_path / "runs" / "quickstart" / "metrics.csv").read_text()
    command("fit")
    assert (tmp_path / "runs" / "quickstart-2" / "summary.json").is_file()
    assert (tmp_path / "runs" / "quickstart" / "metrics.csv").read_text() == first


def test_ckpt_path_continues_in_the_same_folder_and_equals_the_undisturbed_run(
    command: Command, tmp_path: Path
) -> None:
    four = ["--data.steps_per_epoch", "4", "--model.optimizer.lr_scheduler_type", "constant"]
    command("fit", *four, "--name", "whole")
    command("fit", *four, "--name", "halves", "--trainer.max_steps", "2")
    last = str(tmp_path / "runs/halves/checkpoints/last.ckpt")
    command("fit", *four, "--name", "halves", "--ckpt_path", last)
    assert not (tmp_path / "runs" / "halves-2").exists()
    states = [torch.load(tmp_path / f"runs/{name}/checkpoints/last.ckpt") for name in ("whole", "halves")]
    assert states[0]["progress"] == states[1]["progress"]
    assert states[0]["progress"]["iterations"] == 4
    for name, weight in states[0]["state_dict"].items():
        assert torch.equal(weight, states[1]["state_dict"][name])
    curves = [read_metrics(tmp_path / f"runs/{name}/metrics.csv") for name in ("whole", "halves")]
    rewards = [[row["reward"] for row in rows if "reward" in row] for rows in curves]
    assert len(rewards[0]) == 4
    assert rewards[0] == rewards[1]


def test_validate_and_test_print_the_same_scores(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("validate", "test"):
        command(name)
        assert "eval/heldout/avg@2" in capsys.readouterr().out


def test_predict_writes_every_completion(command: Command, tmp_path: Path) -> None:
    command("predict")
    rows = [json.loads(line) for line in (tmp_path / "runs/quickstart/predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 40 * 2
    assert len({row["task_id"] for row in rows}) == 40
    assert {row["reward"] for row in rows} <= {0.0, 1.0}


def test_help_and_print_config_read_well(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown_by(*words: str) -> str:
        code, printed, _ = program(*words)
        assert code == 0
        return printed

    monkeypatch.chdir(ROOT)
    shown = shown_by("--help")
    assert "\n  bots-lightning fit --config configs/quickstart.yaml\n" in shown
    assert "Roll out every training task" in shown
    config = yaml.safe_load(shown_by("fit", "--config", "configs/quickstart.yaml", "--print_config"))
    assert config["data"]["selector"]["class_path"] == "bots_lightning.selection.FairShareSelector"


def test_other_commands_leave_the_config_of_the_run_alone(command: Command, tmp_path: Path) -> None:
    command("fit")
    config = tmp_path / "runs/quickstart/config.yaml"
    trained = config.read_bytes()
    checkpoint = str(tmp_path / "runs/quickstart/checkpoints/last.ckpt")
    for name in ("validate", "predict"):
        command(name, "--ckpt_path", checkpoint, "--model.policy.temperature", "0.5")
    with pytest.raises(ValueError, match="trained weights"):
        command("validate", "--ckpt_path", checkpoint, "--model.policy.lora", "null")
    assert config.read_bytes() == trained


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.sampler.num_generations", "1"], "error: num_generations=1; a group needs at least 2"),
        (["--trainer.overfit_batches", "1"], "error: trainer.overfit_batches replaces the selector"),
        (["--trainer.precision", "bf16-true"], "error: trainer.precision=bf16-true; expected 32-true or bf16-mixed"),
    ],
)
def test_what_a_user_can_put_right_is_said_in_one_line(
    options: list[str], message: str, program: Any, tmp_path: Path, cache: Path
) -> None:
    code, _, said = program("fit", *FEW_STEPS, "--runs_dir", str(tmp_path), *options)
    assert code == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(message)


def test_a_process_ends_with_the_line_and_its_exit_code(tmp_path: Path, cache: Path) -> None:
    words = ["fit", *FEW_STEPS, "--runs_dir", str(tmp_path), "--trainer.precision", "bf16-true"]
    ended = subprocess.run([sys.executable, "-m", "bots_lightning", *words], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: trainer.precision=bf16-true; expected 32-true or bf16-mix")


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bots_lightning.cli.main", lambda: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        run()


def fail_of(cause: Exception) -> None:
    raise StepFailedError(f"{type(cause).__name__}: {cause}") from cause


def test_a_failed_step_is_a_line_if_the_fault_is_told_and_a_traceback_if_it_is_the_users_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        Scorer([lambda **_: [2.0]])([Task("t", "p", "a")], ["c"])
    except ValueError as error:
        ours = error
    monkeypatch.setattr("bots_lightning.cli.main", lambda: fail_of(ours))
    with pytest.raises(SystemExit, match=r"error: ValueError: task 't' got the reward 2, outside reward_range"):
        run()
    monkeypatch.setattr("bots_lightning.cli.main", lambda: fail_of(KeyError("column")))
    with pytest.raises(StepFailedError, match="KeyError: 'column'"):
        run()


def test_a_reward_function_that_fails_is_named_above_its_own_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**columns: object) -> object:
        return columns["difficulty"]

    score = partial(Scorer([broken]), [Task("t", "p", "a")], ["c"])
    monkeypatch.setattr("bots_lightning.cli.main", score)
    with pytest.raises(RewardFunctionError, match=r"reward function broken raised KeyError: 'difficulty' for task 't'"):
        run()
    with pytest.raises(RewardFunctionError) as caught:
        score()
    monkeypatch.setattr("bots_lightning.cli.main", lambda: fail_of(caught.value))
    with pytest.raises(StepFailedError, match="reward function broken raised KeyError"):
        run()


def test_a_full_disk_is_told_in_a_line_whoever_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        raise OSError(number, "said by the system", "events.out")

    monkeypatch.setattr("bots_lightning.cli.main", lambda: fail(errno.ENOSPC))
    with pytest.raises(SystemExit, match=r"error: .*'events\.out': the disk is full\. Make room"):
        run()
    monkeypatch.setattr("bots_lightning.cli.main", lambda: fail(errno.EACCES))
    with pytest.raises(PermissionError):
        run()
    monkeypatch.setattr("bots_lightning.cli.main", lambda: append_text(tmp_path / "metrics.csv", "1"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(SystemExit, match=r"error: .*metrics\.csv could not be written .* MiB are free there"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_wrong_option_is_named(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("fit", "--model.sampler.num_generation", "4")
    assert "num_generation" in capsys.readouterr().err
