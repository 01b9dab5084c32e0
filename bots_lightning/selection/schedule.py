"""Targets that move while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearSchedule:
    """From one value to another in equal steps, then constant.

    Attributes:
        start: value of the first selection.
        end: value from step `steps` on.
        steps: selections in between.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}; expected at least 1.")
        for name in ("start", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected a number in [0, 1].")

    def at(self, step: int) -> float:
        """The value of a step, counted from 0."""
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)
