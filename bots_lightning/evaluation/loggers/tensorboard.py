"""TensorBoard's curves, with gaps where a metric is not finite."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)


class TensorBoardCurves(TensorBoardLogger):
    """Lightning's TensorBoardLogger for finite values only.

    A metric is NaN where a step has no value of it: the explained variance of equal returns, the loss of a step that
    was skipped. TensorBoard would write NaN too, with a warning that does not name the metric. Of a metric that is
    infinite, one warning names it.

    A step's metrics are written together when it is over, so that what logs some of them does not wait.

    Args:
        folder: the run folder; the curves go to its `tensorboard`.
    """

    def __init__(self, folder: str | Path) -> None:
        # With its default of 10 events, the step would wait for the thread that writes them.
        super().__init__(folder, name="tensorboard", version="", default_hp_metric=False, max_queue=1000)
        self._named: set[str] = set()
        self._pending: dict[str, float] = {}
        self._step: int | None = None  # theirs

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds metrics to those of a step."""
        if step != self._step:
            self._write()
        self._step = step
        self._pending |= metrics

    @rank_zero_only
    def save(self) -> None:
        """Writes the metrics that are finite; Lightning calls it when a step is over."""
        self._write()
        super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the last metrics."""
        self._write()
        super().finalize(status)

    def _write(self) -> None:
        metrics, self._pending = self._pending, {}
        for name in metrics:
            if math.isinf(metrics[name]) and name not in self._named:
                self._named.add(name)
                log.warning("step %s: %s is infinite; TensorBoard has a gap there.", self._step, name)
        super().log_metrics({name: value for name, value in metrics.items() if math.isfinite(value)}, self._step)
