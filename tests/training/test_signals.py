"""SIGTERM ends an evaluation or a prediction."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks


class Preempted(Callback):
    """Receives SIGTERM in some batch."""

    def __init__(self, batch: int) -> None:
        self.batch, self.batches = batch, 0

    def on_predict_batch_start(self, *_: Any) -> None:
        self.batches += 1
        if self.batches == self.batch:
            signal.raise_signal(signal.SIGTERM)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start


@pytest.fixture
def handler() -> Iterator[Any]:
    """Of SIGTERM; a run that ends by an error leaves its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield before
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("command", ["predict", "validate", "test"])
def test_sigterm_ends_what_is_no_training(command: str, build: Any, new_trainer: Any, handler: Any) -> None:
    def run(callback: Preempted) -> None:
        evaluation = {"heldout": ProceduralTasks(8, seed=1)}
        data = TaskDataModule(ProceduralTasks(8), UniformSelector(), 4, evaluation, eval_batch_size=2)
        getattr(new_trainer(callbacks=[callback]), command)(build(GRPO), data)

    left_alone, preempted = Preempted(batch=0), Preempted(batch=2)
    run(left_alone)
    assert left_alone.batches == 4
    assert signal.getsignal(signal.SIGTERM) == handler
    with pytest.raises(SystemExit) as ended:
        run(preempted)
    assert ended.value.code == 128 + signal.SIGTERM
    assert preempted.batches == 2
