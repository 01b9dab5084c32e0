"""Runs that are copied after each change of their files, and resumed from there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint

from bots_lightning.algorithms import GRPO
from bots_lightning.beliefs import BetaBelief
from bots_lightning.checkpoints import AtomicCheckpointIO, find_checkpoint
from bots_lightning.data import TaskDataModule
from bots_lightning.evaluation import MetricsCSV
from bots_lightning.policy import LoRA, Policy
from bots_lightning.rewards import Scorer
from bots_lightning.selection import ThompsonSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater
from callbacks import CompletionsLog, EffectiveTaskRatio, RunSummary, SelectionOverhead

STEPS_PER_EPOCH = 3
LENGTHS = {"epochs": {"max_epochs": 2}, "steps": {"max_epochs": -1, "max_steps": 5}}
KEEPERS: dict[str, dict[str, Any]] = {
    "every step": {"every_n_train_steps": 1},
    "every epoch, by steps": {"every_n_train_steps": STEPS_PER_EPOCH},
    "after evaluations": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    "after epochs": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "as shipped": {"every_n_epochs": 1, "save_on_train_epoch_end": False, "save_last": "link", "save_top_k": 1},
}
Run = Callable[..., Trainer]


def share_of_a(completions: list[str], **_: Any) -> list[float]:
    return [completion.count("a") / max(1, len(completion)) for completion in completions]


@pytest.fixture
def run(checkpoint: str) -> Run:
    """`run(folder, length, keeper, val_check_interval)`: trains, from the newest checkpoint if there is one."""

    def run(folder: Path, length: dict[str, Any], keeper: dict[str, Any], interval: int | None) -> Trainer:
        module = OnlineModule(
            Policy(checkpoint, LoRA(r=4, alpha=8)),
            Scorer([share_of_a]),
            Sampler(num_generations=2, max_prompt_length=32, max_completion_length=3),
            GRPO(),
            Updater(learning_rate=1e-2, lr_scheduler_type="constant"),
            Evaluation(num_generations=1),
        )
        data = TaskDataModule(
            ProceduralTasks(24),
            ThompsonSelector(BetaBelief()),
            batch_size=2,
            evaluation={"heldout": ProceduralTasks(2, seed=1)} if interval else None,
            steps_per_epoch=STEPS_PER_EPOCH,
        )
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            logger=MetricsCSV(folder),
            plugins=[AtomicCheckpointIO()],
            val_check_interval=interval,
            num_sanity_val_steps=-1,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[
                EffectiveTaskRatio(),
                SelectionOverhead(),
                CompletionsLog(every_n_steps=1),
                RunSummary(table=False),
                LearningRateMonitor(logging_interval="step"),
                ModelCheckpoint(
                    folder / "checkpoints",
                    **{"save_last": True, "save_top_k": -1, "enable_version_counter": False} | keeper,
                ),
            ],
            **length,
        )
        trainer.fit(module, data, ckpt_path=find_checkpoint("last", [folder], required=False))
        return trainer

    return run


def checkpoints(folder: Path) -> dict[str, Any]:
    """All of a run, without paths and where in Lightning's loops the moment was."""
    found = {path.name: torch.load(path, weights_only=False) for path in (folder / "checkpoints").glob("*.ckpt")}
    for state in found.values():
        for place in ("callbacks", "loops", "epoch"):
            del state[place]
    return found


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], list[Path]]:
    """`killed(folder)`: copies of that folder, one after each change of one of its files, made from then on."""

    def killed(folder: Path) -> list[Path]:
        copies: list[Path] = []

        def copied_after(change: Callable[..., Any]) -> Callable[..., Any]:
            def changing(path: Path, *rest: Any, **options: Any) -> Any:
                result = change(path, *rest, **options)
                if folder in path.parents:
                    copies.append(tmp_path / f"killed-{len(copies)}")
                    shutil.copytree(folder, copies[-1], symlinks=True)
                return result

            return changing

        monkeypatch.setattr(Path, "replace", copied_after(Path.replace))
        for module in ("callbacks.completions", "bots_lightning.evaluation.loggers.metrics_csv"):
            change = monkeypatch.setattr
            change(f"{module}.append_text", copied_after(__import__(module, fromlist=["append_text"]).append_text))
        return copies

    return killed


def spread(copies: list[Path], number: int) -> list[Path]:
    """So many of them, the first and the last among them."""
    return [copies[int(at)] for at in np.unique(np.linspace(0, len(copies) - 1, number).round())]


@pytest.fixture
def check_copies(
    run: Run,
    killed: Callable[[Path], list[Path]],
    differences: Any,
    run_files: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """`check_copies(length, keeper, interval, moments)`: so many copies of a run end as it did; None: all of them."""

    def check_copies(length: str, keeper: str, interval: int | None, moments: int | None) -> None:
        arguments = LENGTHS[length], KEEPERS[keeper], interval
        with monkeypatch.context():
            copies = killed(tmp_path / "whole")
            run(tmp_path / "whole", *arguments)
            monkeypatch.undo()
        files, states = run_files(tmp_path / "whole"), checkpoints(tmp_path / "whole")
        assert len(copies) > 5
        print(len(copies), "moments")  # shown by pytest -rP
        for copy in spread(copies, moments or len(copies)):
            run(copy, *arguments)
            assert differences(run_files(copy), files) == [], copy.name
            assert differences(checkpoints(copy), states) == [], copy.name

    return check_copies
