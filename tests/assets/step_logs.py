"""What a callback needs of a trainer to log a step: keeps what was logged, without a run."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any


class Logged:
    """A logger that keeps what it is given, call by call: (step, metrics)."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append((step, dict(metrics)))

    @property
    def last(self) -> dict[str, float]:
        """The metrics of the last call."""
        return self.calls[-1][1]


def logging_trainer(logger: Logged | None = None, **attributes: Any) -> Any:
    """A trainer that logs every step, with further attributes."""
    logs = {"loggers": [logger or Logged()], "log_every_n_steps": 1, "callback_metrics": {}, "should_stop": False}
    return SimpleNamespace(**{"world_size": 1, **logs, **attributes})


def module_at(iteration: int = 1, **attributes: Any) -> Any:
    """A module after so many iterations, with further attributes."""
    return SimpleNamespace(progress=SimpleNamespace(iterations=iteration), **attributes)
