"""What a run is refused for before it starts, and what ranks compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.cli import main
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import UniformSelector
from bots_lightning.strategies import DataParallel
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import checks
from bots_lightning.training.checks import check_ranks

ROOT = Path(__file__).parents[2]
QUICKSTART, DDP = (str(ROOT / "configs" / name) for name in ("quickstart.yaml", "strategies/ddp.yaml"))
CPU = ["--trainer.accelerator", "cpu"]
OnTwoRanks = Callable[[str], list[Any]]


def tasks(batch_size: int) -> TaskDataModule:
    return TaskDataModule(ProceduralTasks(24), UniformSelector(), batch_size)


def test_several_ranks_need_a_strategy_and_a_batch_that_divides(new_trainer: Callable[..., Trainer]) -> None:
    check_ranks(new_trainer(), tasks(5))
    check_ranks(new_trainer(devices=2, strategy=DataParallel()), tasks(4))
    with pytest.raises(ValueError, match=r"2 processes under DDPStrategy.* Stack a config of configs/strategies"):
        check_ranks(new_trainer(devices=2), tasks(4))
    with pytest.raises(ValueError, match=r"batch_size=5 tasks do not divide evenly over 2 ranks; choose"):
        check_ranks(new_trainer(devices=2, strategy=DataParallel()), tasks(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "2 processes under DDPStrategy"),
        (["--config", DDP, "--data.batch_size", "5"], "batch_size=5 tasks do not divide evenly over 2 ranks"),
    ],
)
def test_the_command_line_refuses_before_processes_are_started(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_SubprocessScriptLauncher, "launch", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(ValueError, match=message):
        main(["fit", "--config", QUICKSTART, "--runs_dir", str(tmp_path), "--trainer.devices", "2", *CPU, *options])


def test_a_run_is_refused_before_a_model_is_loaded(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(GRPO)
    monkeypatch.setattr(module, "configure_model", lambda: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"overfit_batches replaces the selector"):
        fit(module, overfit_batches=1)


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        (GRPO, {"steps_per_generation": 17}, "17 optimizer steps per epoch over 16 rollouts"),
        (GRPO, {"num_iterations": 0}, "num_iterations=0; expected at least 1"),
        (PPO, {"num_mini_batches": 0}, "num_mini_batches=0; expected at least 1"),
    ],
)
def test_more_steps_than_rows_and_no_step_at_all_are_refused(
    build: Any, fit: Any, algorithm: Any, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(build(algorithm, **options))


def test_ranks_that_have_drifted_apart_are_named(on_two_ranks: OnTwoRanks) -> None:
    first, second = on_two_ranks("drifted_apart")
    assert first[0] == ""
    assert "selector state (rank 0: digest-0, rank 1: digest-1)" in first[1]
    assert "no longer hold the same weights (rank 1: 1 of 4 weights differ, first b)" in first[2]
    assert second == first


def test_a_run_compares_its_trained_weights(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(checks, "check_ranks_agree", lambda _, weights: compared.append({name for name, _ in weights}))
    run = fit(build(GRPO, check_ranks_every=2), 4)
    assert compared == [set(run.history.weights[0])] * (1 + 2)  # before the first step, and behind every second
