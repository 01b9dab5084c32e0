"""`predict` asks for somebody who keeps what comes of it, before it does anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BasePredictionWriter

from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks
from callbacks import CompletionsLog, GracefulStop, PassRateWriter, TaskProgressBar


class Keeps(Callback):
    """A user's own."""

    def on_predict_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        trainer.kept = outputs["completions"]  # type: ignore[attr-defined]


class Writes(BasePredictionWriter):
    """Another, in Lightning's way."""

    def write_on_batch_end(self, trainer: Trainer, pl_module: Any, prediction: Any, *args: Any) -> None:
        trainer.kept = prediction["completions"]  # type: ignore[attr-defined]


def predict(new_trainer: Callable[..., Trainer], module: Any, *callbacks: Callback, returned: bool = False) -> Any:
    trainer = new_trainer(callbacks=list(callbacks), enable_progress_bar=bool(callbacks))
    tasks = TaskDataModule(ProceduralTasks(4), UniformSelector(), batch_size=2)
    return trainer.predict(module, tasks, return_predictions=returned), trainer


@pytest.mark.parametrize("callbacks", [[], [TaskProgressBar(), GracefulStop()]])
def test_without_a_writer_it_is_refused_before_a_model_is_loaded(
    callbacks: list[Callback], build: Callable[..., Any], new_trainer: Callable[..., Trainer]
) -> None:
    module = build(GRPO)
    with pytest.raises(
        ValueError, match=r"predict would keep nothing.*Add callbacks\.PassRateWriter .* callbacks\.CompletionsLog"
    ):
        predict(new_trainer, module, *callbacks)
    assert not module.policy.is_loaded


@pytest.mark.parametrize("callback", [Keeps(), Writes("batch")])
def test_a_writer_may_be_anybody_s(
    callback: Callback, build: Callable[..., Any], new_trainer: Callable[..., Trainer]
) -> None:
    _, trainer = predict(new_trainer, build(GRPO), callback)
    assert len(trainer.kept) == 4 * 4


@pytest.mark.parametrize(
    ("callback", "file"),
    [(PassRateWriter(picture=False), "pass_rates.parquet"), (CompletionsLog(), "predictions.jsonl")],
)
def test_ours_write(
    callback: Callback, file: str, build: Callable[..., Any], new_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    predict(new_trainer, build(GRPO), callback)
    assert (tmp_path / file).is_file()


def test_predictions_that_are_returned_need_no_writer(
    build: Callable[..., Any], new_trainer: Callable[..., Trainer]
) -> None:
    predictions, _ = predict(new_trainer, build(GRPO), returned=True)
    assert [len(batch["completions"]) for batch in predictions] == [16]
