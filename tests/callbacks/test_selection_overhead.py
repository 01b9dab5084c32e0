"""The overhead is the share of select, observe and the callbacks for selection in the seconds of all steps."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from step_logs import Logged, logging_trainer, module_at

from callbacks import BeliefQuality, EffectiveTaskRatio, SelectionCallback, SelectionOverhead, StalledLearning
from callbacks.selection_callback import counted


def step(
    callback: SelectionOverhead, select: float, observe: float, whole: float, logger: Logged | None = None
) -> None:
    """`whole` seconds hold the observation but not the selection, as in training_step."""
    timings = {"select": select, "observe": observe, "step": whole}
    callback.on_train_batch_end(logging_trainer(logger), module_at(), {"timings": timings}, None, 0)


def test_the_fraction_is_over_all_steps_and_not_a_mean_of_fractions() -> None:
    callback, logger = SelectionOverhead(), Logged()
    assert math.isnan(callback.fraction)
    step(callback, select=1.0, observe=0.5, whole=2.0, logger=logger)  # 1.5 of 3
    step(callback, select=0.0, observe=0.5, whole=7.0, logger=logger)  # 2 of 10
    assert [metrics for _, metrics in logger.calls] == [
        {"selection/overhead_fraction": pytest.approx(1.5 / 3)},
        {"selection/overhead_fraction": pytest.approx(2 / 10)},
    ]
    assert callback.fraction == pytest.approx(0.2)


def test_the_fraction_continues_after_a_resume(tmp_path: Path) -> None:
    callback, resumed = SelectionOverhead(), SelectionOverhead()
    step(callback, select=1.0, observe=1.0, whole=3.0)
    step(resumed, select=9.0, observe=9.0, whole=9.0)  # to be overwritten
    torch.save(callback.state_dict(), tmp_path / "callback.ckpt")
    resumed.load_state_dict(torch.load(tmp_path / "callback.ckpt", weights_only=True))
    step(resumed, select=0.0, observe=1.0, whole=6.0)
    assert resumed.fraction == pytest.approx(3 / 10)


class Busy(SelectionCallback):
    """Takes a given time, and can fail."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    @counted
    def on_train_batch_end(self, seconds: float, fail: bool = False) -> None:  # type: ignore[override]
        """So many seconds pass."""
        self.clock[0] += seconds
        if fail:
            raise ArithmeticError("after its work")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only entry."""
    now = [100.0]
    monkeypatch.setattr("callbacks.selection_callback.time.perf_counter", lambda: now[0])
    return now


def test_the_seconds_of_the_callbacks_for_selection_count_in_the_step_and_in_its_overhead(clock: list[float]) -> None:
    before, after, overhead = Busy(clock), Busy(clock), SelectionOverhead()
    before.on_train_batch_end(50.0)  # of an earlier run
    trainer: Any = SimpleNamespace(callbacks=[before, overhead, after, StalledLearning()])
    overhead.setup(trainer, None, "fit")  # type: ignore[arg-type]
    before.on_train_batch_end(0.5)
    step(overhead, select=1.0, observe=0.5, whole=2.0)
    assert overhead.fraction == pytest.approx((1.5 + 0.5) / (3 + 0.5))
    after.on_train_batch_end(0.25)  # comes after the overhead's own hook: counted with the next step
    before.on_train_batch_end(0.5)
    step(overhead, select=0.0, observe=0.5, whole=7.0)
    assert overhead.fraction == pytest.approx((2 + 1.25) / (10 + 1.25))


def test_the_seconds_of_a_hook_that_fails_are_counted(clock: list[float]) -> None:
    busy = Busy(clock)
    with pytest.raises(ArithmeticError, match="after its work"):
        busy.on_train_batch_end(2.0, fail=True)
    busy.on_train_batch_end(1.0)
    assert busy.seconds == pytest.approx(3.0)
    assert Busy(clock).seconds == 0.0


@pytest.mark.parametrize("kind", [EffectiveTaskRatio, BeliefQuality])
def test_the_callbacks_for_selection_count_their_time(kind: type[SelectionCallback], clock: list[float]) -> None:
    """Whatever they do with it: here the trainer takes three seconds to answer."""

    class Slow:
        @property
        def datamodule(self) -> Any:
            clock[0] += 3.0
            raise LookupError

    callback: Any = kind()
    with pytest.raises(LookupError):
        callback.on_train_batch_end(Slow(), module_at(), {}, None, 0)
    assert callback.seconds == pytest.approx(3.0)
