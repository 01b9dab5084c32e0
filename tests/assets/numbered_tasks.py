"""A pool of numbered tasks, a data module that serves it, and made-up outcomes, for tests of several files."""

# Shapes: N tasks in the pool, B tasks per step over all ranks.

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bots_lightning.beliefs import BetaBelief, Evidence, ReferenceInterpolation
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import TaskSelector, ThompsonSelector
from bots_lightning.tasks import TaskPool, TaskSource


class Numbered(TaskSource):
    """Tasks 0 to N − 1; counts how often it was loaded."""

    def __init__(self, num_tasks: int = 10) -> None:
        self.num_tasks, self.loads = num_tasks, 0

    def load(self) -> TaskPool:
        self.loads += 1
        rows = [
            {"id": f"t{i}", "prompt": f"{i}?", "answer": str(i), "weak": i / 40, "strong": 0.5 + i / 40}
            for i in range(self.num_tasks)
        ]
        return TaskPool.from_rows(rows, references=["weak", "strong"])


def bots() -> ThompsonSelector:
    """A selector with a belief that interpolates between the two reference columns."""
    return ThompsonSelector(BetaBelief(implicit=ReferenceInterpolation("weak", "strong")))


def datamodule(selector: TaskSelector | None = None, num_tasks: int = 10, **options: Any) -> TaskDataModule:
    """One that is set up, with four tasks per step unless `batch_size` says otherwise."""
    data = TaskDataModule(Numbered(num_tasks), selector or bots(), **{"batch_size": 4} | options)
    data.setup()
    return data


def outcome(indices: list[int], step: int = 0) -> Evidence:
    """Success counts out of 8 that depend on task and step alone."""
    return Evidence(np.array(indices), [(3 * i + step) % 9 for i in indices], np.full(len(indices), 8.0))


def run(data: TaskDataModule, steps: range) -> list[list[int]]:
    """Selects and observes; what was drawn in each of the steps."""
    batches = []
    for step in steps:
        batches.append(data.select())
        data.observe(outcome(batches[-1], step))
    return batches


def draw_state(data: TaskDataModule) -> str:
    """The state of the selector's generator."""
    return data.selector.state_dict()["rng"]


def assert_same(one: Any, other: Any) -> None:
    """Checks that two nested states are equal, to the bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
