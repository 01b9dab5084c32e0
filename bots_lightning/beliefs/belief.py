"""What every belief can do, and what it may know of the tasks."""

# Shapes: N tasks in the pool.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.evidence import Evidence

FloatArray = npt.NDArray[np.float64]
State = dict[str, Any]


@dataclass(frozen=True)
class TaskFeatures:
    """What a belief or a selector may know of a pool: no text, only numbers and labels.

    Attributes:
        num_tasks: N.
        references: name of each reference column -> (N,) float pass rates in [0, 1], NaN where unknown.
        groups: (N,) group label (domain, data source) of each task; empty if the pool has none.
        fingerprint: names the pool; state saved for one pool is refused by another.
    """

    num_tasks: int
    references: Mapping[str, FloatArray] = field(default_factory=dict)
    groups: npt.NDArray[np.str_] = field(default_factory=lambda: np.empty(0, dtype=np.str_))
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name, rates in self.references.items():
            if rates.shape != (self.num_tasks,):
                raise ValueError(f"reference {name!r} has shape {rates.shape}; expected ({self.num_tasks},).")
            bad = np.flatnonzero(~(np.isnan(rates) | ((rates >= 0) & (rates <= 1))))
            if len(bad):
                raise ValueError(
                    f"reference {name!r} holds {rates[bad[0]]} for task index {bad[0]}; expected pass rates in [0, 1], "
                    "NaN where unknown."
                )

    def reference(self, name: str) -> FloatArray:
        """The pass rates of one reference model, shape (N,).

        Raises:
            ValueError: the pool has no such column.
        """
        if name not in self.references:
            raise ValueError(
                f"the pool has no reference column {name!r}; it has {sorted(self.references) or 'none'}. "
                "Add the column to the pool (a pass rate in [0, 1] per task, null where unknown) and name it in the "
                "source's `references`, or choose a belief that needs no references."
            )
        return self.references[name]


class Belief(ABC):
    """A probability distribution over every task's success probability.

    The order of calls is `setup` once, then `sample` and `observe` in turn. `state_dict` holds all that changes,
    as numpy arrays, numbers and strings.
    """

    @abstractmethod
    def setup(self, features: TaskFeatures) -> None:
        """Starts from the prior for the N tasks of a pool."""

    @abstractmethod
    def observe(self, evidence: Evidence) -> None:
        """Updates the belief about all tasks after a step; rows of the same task are added up."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> FloatArray:
        """One draw of the success probability of every task, shape (N,)."""

    @abstractmethod
    def mean(self) -> FloatArray:
        """The posterior mean of the success probability of every task, shape (N,), in (0, 1)."""

    def concentrations(self) -> tuple[FloatArray, FloatArray] | None:
        """(α, β) of the Beta distribution, exact or matched, of every task's success probability, each (N,), positive.

        None for a belief that has no such distribution; it cannot be scored by log predictive and coverage.
        """
        return None

    def metrics(self) -> dict[str, float]:
        """Numbers worth a curve, by metric name."""
        return {}

    @abstractmethod
    def state_dict(self) -> State:
        """Everything that `observe` has changed."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Takes over a state saved for the same pool."""
