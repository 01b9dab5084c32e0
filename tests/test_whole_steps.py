"""A run that is killed at any moment, and resumed from its newest checkpoint, leaves the files of an undisturbed one.

A kill is a copy of the run folder at that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from copied_runs import KEEPERS, LENGTHS, Run, check_copies, killed, run, share_of_a
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from bots_lightning.algorithms import GRPO
from bots_lightning.beliefs import BetaBelief
from bots_lightning.data import TaskDataModule
from bots_lightning.evaluation import read_metrics
from bots_lightning.policy import Policy
from bots_lightning.rewards import Scorer
from bots_lightning.selection import ThompsonSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater
from callbacks import EffectiveTaskRatio

__all__ = ["check_copies", "killed", "run"]

QUICK = (
    ("epochs", "every step", 2),
    ("steps", "every epoch, by steps", None),
    ("epochs", "after evaluations", 3),
    ("steps", "after epochs", 1),
    ("steps", "as shipped", 3),
)


@pytest.mark.parametrize(("length", "keeper", "interval"), QUICK)
def test_killed_at_any_moment(
    length: str, keeper: str, interval: int | None, check_copies: Callable[..., None]
) -> None:
    check_copies(length, keeper, interval, 9)


class SavesAtTheEndOfABatch(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
@pytest.mark.parametrize("own", [False, True])
def test_epochs_that_are_resumed_at_their_end_are_as_long_as_any(
    own: bool, limit: str, checkpoint: str, tmp_path: Path
) -> None:
    counts, path = [], tmp_path / "last.ckpt"
    for epochs in (1, 2, 3):
        keeper = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_last=True, enable_version_counter=False)
        trainer = Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[SavesAtTheEndOfABatch(path) if own else keeper],
            **({"max_epochs": epochs} if limit == "max_epochs" else {"max_epochs": -1, "max_steps": 4 * epochs}),
        )
        sampler = Sampler(num_generations=2, max_prompt_length=32, max_completion_length=2)
        parts = Policy(checkpoint), Scorer([share_of_a]), sampler, GRPO(), Updater(), Evaluation()
        module = OnlineModule(*parts)
        data = TaskDataModule(ProceduralTasks(24), ThompsonSelector(BetaBelief()), batch_size=2, steps_per_epoch=4)
        trainer.fit(module, data, ckpt_path=str(path) if path.exists() else None)
        counts.append(module.progress.iterations)
    assert counts == [4, 8, 12]


def test_one_checkpoint_is_on_disk_unless_the_last_step_has_another(run: Run, tmp_path: Path) -> None:
    for name, length, files in (("same", "epochs", 1), ("later", "steps", 2)):
        run(tmp_path / name, LENGTHS[length], KEEPERS["as shipped"], 3)
        found = list((tmp_path / name / "checkpoints").iterdir())
        assert len(found) == 2
        assert len({path.resolve() for path in found}) == files
        last = torch.load(tmp_path / name / "checkpoints" / "last.ckpt")
        assert last["progress"]["iterations"] == {"same": 6, "later": 5}[name]


def test_a_metric_that_a_step_has_not_logged_is_not_repeated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = EffectiveTaskRatio.on_train_batch_end

    def observe_and_log(self: Any, trainer: Any, pl_module: Any, *rest: Any) -> None:
        observe(self, trainer, pl_module, *rest)
        if pl_module.progress.iterations == 1:
            pl_module.log("only/once", 1.0)

    monkeypatch.setattr(EffectiveTaskRatio, "on_train_batch_end", observe_and_log)
    run(tmp_path, LENGTHS["steps"], KEEPERS["every step"], None)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv") if "only/once" in row] == [1]


def test_train_time_interval_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train_time_interval does nothing here.*use every_n_train_steps"):
        run(tmp_path, LENGTHS["steps"], {"train_time_interval": timedelta(seconds=1)}, None)


def test_a_metric_of_the_start_of_a_batch_is_kept(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EffectiveTaskRatio, "on_train_batch_start", lambda *args: args[2].log("early", float(args[4])))
    run(tmp_path, LENGTHS["steps"], KEEPERS["every step"], None)
    assert [row["early"] for row in read_metrics(tmp_path / "metrics.csv") if "early" in row] == [0, 1, 2, 0, 1]
