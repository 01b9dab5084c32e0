"""What every belief can do, and what it may know of the tasks."""

# Shapes: N tasks in the pool.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.reward_shape import RewardShape

FloatArray = npt.NDArray[np.float64]
State = dict[str, Any]
Where = slice | npt.NDArray[np.int64]  # positions in the pool
ALL = slice(None)
PART = 1 << 16  # labels that are Python objects at a time


@dataclass(frozen=True)
class TaskFeatures:
    """What a belief or a selector may know of a pool: no text, only numbers and labels.

    Attributes:
        num_tasks: N.
        references: name of each reference column -> (N,) float pass rates in [0, 1], NaN where unknown.
        groups: (N,) group label (domain, data source) of each task; empty if the pool has none.
        fingerprint: names the pool; state saved for one pool is refused by another.
        columns: further columns by name: (N,) numbers (NaN where unknown) or strings, or (N, F) embeddings.
    """

    num_tasks: int
    references: Mapping[str, FloatArray] = field(default_factory=dict)
    groups: npt.NDArray[np.str_] = field(default_factory=lambda: np.empty(0, dtype=np.str_))
    fingerprint: str = ""
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.groups) not in (0, self.num_tasks):
            raise ValueError(
                f"groups has {len(self.groups)} labels; expected {self.num_tasks}, one per task, or none at all."
            )
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
                "Add the column to the pool (a pass rate in [0, 1] per task, null where unknown; `bots-lightning "
                "predict` rolls out any model over a pool) and name it in the source's `references`, or choose a "
                "selector that needs no references."
            )
        return self.references[name]

    def column(self, name: str) -> npt.NDArray[Any]:
        """A further column, shape (N,) or (N, F).

        Raises:
            ValueError: the pool has no such column, or one of another length.
        """
        if name not in self.columns:
            raise ValueError(
                f"the pool has no column {name!r} of numbers or labels; it has {sorted(self.columns) or 'none'}. "
                "Add the column to the pool, or take its name out of the belief's `features` and `categories`."
            )
        values = np.asarray(self.columns[name])
        if len(values) != self.num_tasks:
            raise ValueError(f"column {name!r} has {len(values)} rows; expected {self.num_tasks}, one per task.")
        return values

    @cached_property
    def _grouping(self) -> tuple[list[str], npt.NDArray[Any]]:
        """Labels in the order of their first task, so that they keep their place when a pool grows; (N,) positions."""
        if not len(self.groups):
            return [""], np.zeros(self.num_tasks, dtype=np.uint8)
        places: dict[str, int] = {}
        codes = np.empty(self.num_tasks, dtype=np.int64)
        for start in range(0, self.num_tasks, PART):
            part = self.groups[start : start + PART].tolist()  # a look-up is faster than sorting texts
            codes[start : start + PART] = [places.setdefault(label, len(places)) for label in part]
        return list(places), codes.astype(np.min_scalar_type(len(places)))

    @property
    def group_names(self) -> list[str]:
        """The K group labels; one empty label if the pool has no groups."""
        return self._grouping[0]

    @property
    def group_codes(self) -> npt.NDArray[Any]:
        """(N,) position of each task's group in `group_names`, in the smallest unsigned type that holds it."""
        return self._grouping[1]


class Belief(ABC):
    """A probability distribution over every task's success probability.

    The order of calls is `setup` once, then `sample` and `observe` in turn. `state_dict` holds all that changes,
    as numpy arrays, numbers and strings. `grid` and `cells` are for pools so large that a draw for every task takes
    too long; a belief of your own can leave them out.
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

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray] | None:
        """(α, β) of the Beta distribution, exact or matched, of the tasks' success probabilities, each (N,), positive.

        None for a belief that has no such distribution; it cannot be scored by log predictive and coverage.

        Args:
            where: positions in the pool; all of it by default.
        """
        return None

    def grid(self) -> tuple[FloatArray, FloatArray] | None:
        """(α, β) at the centre of every cell, each (rows, columns): what a task's posterior is rounded to.

        None for a belief without cells.
        """
        return None

    def cells(self, where: slice) -> npt.NDArray[np.int32]:
        """The cell of each task's present posterior, as a position in the flattened grid; nanoseconds a task."""
        raise TypeError(
            f"{type(self).__name__} has no cells; implement `grid` and `cells`, or use it on smaller pools."
        )

    def add_tasks(self, features: TaskFeatures) -> None:
        """The pool has grown: its first tasks are those of `setup`, the others are new, with priors from their group.

        Raises:
            TypeError: this belief cannot.
        """
        raise TypeError(f"{type(self).__name__} cannot take in tasks while it runs; implement `add_tasks`.")

    @property
    def reward_shape(self) -> RewardShape | None:
        """How far each group's rewards are from coin flips; None for a belief that takes all rewards for such."""
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
