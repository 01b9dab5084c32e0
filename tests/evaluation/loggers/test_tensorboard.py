"""What goes to TensorBoard is finite, and infinite metrics are named in a warning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bots_lightning.evaluation import TensorBoardCurves


def test_what_is_no_number_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger, written = TensorBoardCurves(tmp_path), []
    monkeypatch.setattr(logger.experiment, "add_scalar", lambda *point: written.append(point))
    logger.log_metrics({"loss": math.nan, "reward": 0.5, "ratio": math.inf}, 3)
    logger.log_metrics({"loss": 0.25, "ratio": -math.inf}, 4)
    logger.finalize("success")
    assert written == [("reward", 0.5, 3), ("loss", 0.25, 4)]
    assert [record.getMessage() for record in caplog.records] == [
        "step 3: ratio is infinite; TensorBoard has a gap there."
    ]


def test_the_metrics_of_a_step_are_written_when_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, written = TensorBoardCurves(tmp_path), []
    monkeypatch.setattr(logger.experiment, "add_scalar", lambda *point: written.append(point))
    logger.log_metrics({"loss": 0.5}, 3)
    logger.log_metrics({"reward": 0.25, "loss": 0.75}, 3)
    assert written == []
    logger.save()
    logger.save()
    assert written == [("loss", 0.75, 3), ("reward", 0.25, 3)]
    logger.log_metrics({"loss": 1.0}, 4)
    logger.log_metrics({"loss": 2.0}, 5)
    assert written[2:] == [("loss", 1.0, 4)]
