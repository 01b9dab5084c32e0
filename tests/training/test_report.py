"""A step is logged by means over ranks, with counters that are exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from step_logs import Logged, logging_trainer

from bots_lightning.algorithms import Progress
from bots_lightning.training.report import log_step


class Module:
    """What a module is to the log of a step; another rank gives `others`."""

    device = torch.device("cpu")

    def __init__(self, logger: Logged, others: list[list[float]]) -> None:
        self.trainer = logging_trainer(logger, world_size=1 + len(others))
        self.others, self.by_lightning = others, list[tuple[str, float]]()

    def all_gather(self, mine: torch.Tensor) -> torch.Tensor:
        return torch.stack([mine, *map(torch.tensor, self.others)])

    def log(self, name: str, value: float, batch_size: int) -> None:
        self.by_lightning.append((name, value))


@pytest.mark.parametrize(("others", "expected"), [([], [0.5, 2.0]), ([[1.0, 4.0], [0.0, 3.0]], [0.5, 3.0])])
def test_means_are_of_ranks_and_counters_are_not(others: list[list[float]], expected: list[float]) -> None:
    logger = Logged()
    module: Any = Module(logger, others)
    progress = Progress(iterations=7, rollouts=12, generated_tokens=2**24 + 1)  # not a number of float32
    log_step(module, {"loss": torch.tensor(0.5), "reward": 2.0}, progress, {"belief/ability": 0.25})
    counters = {"num_tokens": 2.0**24 + 1, "num_rollouts": 12.0}
    means = dict(zip(("loss", "reward"), expected, strict=True))
    assert logger.calls == [(7, means | counters | {"belief/ability": 0.25})]
    assert float(module.trainer.callback_metrics["reward"]) == expected[1]
    assert module.by_lightning == [("step", 7.0)]  # where callbacks log by it, the loggers take the step from here
