"""Schedules of a selector's target."""

from __future__ import annotations

from dataclasses import dataclass

from bots_lightning.options import check_numbers


@dataclass(frozen=True)
class LinearSchedule:
    """Changes linearly from one value to another, then stays constant.

    Attributes:
        start: value at the first selection, in [0, 1].
        end: value after `steps` selections, in [0, 1].
        steps: number of selections from `start` to `end`.

    Raises:
        ValueError: a number is out of range.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        check_numbers(1, steps=self.steps)
        check_numbers(0, high=1, start=self.start, end=self.end)

    def at(self, step: int) -> float:
        """The value at a selection; `step` counts from 0."""
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)
