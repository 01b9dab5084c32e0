"""The overhead is the share of select and observe in the seconds of all steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import SelectionOverhead


class Module:
    """Somewhere to log."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, float]] = []

    def log(self, name: str, value: float, batch_size: int) -> None:
        self.logged.append((name, value))


def step(callback: SelectionOverhead, select: float, observe: float, whole: float, module: Any = None) -> None:
    """`whole` seconds hold the observation but not the selection, as in training_step."""
    timings = {"select": select, "observe": observe, "step": whole}
    callback.on_train_batch_end(None, module or Module(), {"timings": timings}, None, 0)  # type: ignore[arg-type]


def test_the_fraction_is_over_all_steps_and_not_a_mean_of_fractions() -> None:
    callback, module = SelectionOverhead(), Module()
    assert math.isnan(callback.fraction)
    step(callback, select=1.0, observe=0.5, whole=2.0, module=module)  # 1.5 of 3
    step(callback, select=0.0, observe=0.5, whole=7.0, module=module)  # 2 of 10
    assert module.logged == [
        ("selection/overhead_fraction", pytest.approx(1.5 / 3)),
        ("selection/overhead_fraction", pytest.approx(2 / 10)),
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
