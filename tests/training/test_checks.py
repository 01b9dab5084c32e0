"""What a run is refused for before it starts, and what ranks compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from bots_lightning.algorithms import GRPO, online
from bots_lightning.cli import main
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import UniformSelector
from bots_lightning.strategies import DataParallel
from bots_lightning.strategies.digests import CHUNK, _odd_ranks, digest
from bots_lightning.tasks import ProceduralTasks
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
        (["--config", DDP, "--data.init_args.batch_size", "5"], "batch_size=5 tasks do not divide evenly over 2 ranks"),
    ],
)
def test_the_command_line_refuses_before_processes_are_started(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_SubprocessScriptLauncher, "launch", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(ValueError, match=message):
        main(["fit", "--config", QUICKSTART, "--runs_dir", str(tmp_path), "--trainer.devices", "2", *CPU, *options])


def test_a_run_is_refused_before_a_model_is_loaded(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = build(GRPO)
    monkeypatch.setattr(policy, "configure_model", lambda: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"overfit_batches replaces the selector"):
        fit(policy, overfit_batches=1)


def test_a_change_of_one_bit_anywhere_changes_the_digest() -> None:
    weight = torch.zeros(CHUNK + 3)
    before = digest(weight)
    for place in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        changed = weight.clone()
        changed.view(torch.int32)[place] ^= 1
        assert digest(changed) != before
    half = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.bfloat16)
    assert digest(half) == half.view(torch.int16).sum() == digest(half.T)
    assert digest(torch.zeros(0)) == 0


def test_the_rank_that_holds_what_no_other_does_is_the_odd_one() -> None:
    assert _odd_ranks([7, 7, 7]) == []
    assert _odd_ranks([5, 7, 7]) == [0]
    assert _odd_ranks([7, 5, 7, 6]) == [1, 3]
    assert _odd_ranks([5, 7]) == [1]


def test_ranks_that_have_drifted_apart_are_named(on_two_ranks: OnTwoRanks) -> None:
    first, second = on_two_ranks("drifted_apart")
    assert first[0] == ""
    assert "selector state (rank 0: digest-0, rank 1: digest-1)" in first[1]
    assert "no longer hold the same weights (rank 1: 1 of 4 weights differ, first b)" in first[2]
    assert second == first


def test_a_run_compares_its_trained_weights(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(online, "check_ranks_agree", lambda _, weights: compared.append({name for name, _ in weights}))
    run = fit(build(GRPO, check_ranks_every=2), 4)
    assert compared == [set(run.history.weights[0])] * (1 + 2)  # before the first step, and behind every second
