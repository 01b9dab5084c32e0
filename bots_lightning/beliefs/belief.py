"""The interface of beliefs, and the features of tasks that they may use."""

# Shapes: N tasks in the pool.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.dispersion import RewardDispersion
from bots_lightning.beliefs.evidence import Evidence

FloatArray = npt.NDArray[np.float64]
State = dict[str, Any]
Where = slice | npt.NDArray[np.int64]  # positions in the pool
ALL = slice(None)
CHUNK = 1 << 16  # labels converted to Python objects at a time


@dataclass(frozen=True)
class TaskFeatures:
    """Features of the tasks of a pool, for beliefs and selectors: numbers and labels, no text.

    Attributes:
        num_tasks: N.
        references: name of each reference column -> (N,) float pass rates in [0, 1], NaN where unknown.
        groups: (N,) group label (domain, data source) of each task; empty if the pool has none.
        fingerprint: identifies the pool; state saved for one pool cannot be loaded for another.
        columns: further columns by name: (N,) numbers (NaN where unknown) or strings, or (N, F) embeddings.

    Raises:
        ValueError: a column has another length than N, or a pass rate lies outside [0, 1].
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
        """The pass rates of one reference model, shape (N,), NaN where unknown.

        Args:
            name: of the reference column.

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
        """A further column of the pool, shape (N,) or (N, F).

        Args:
            name: of the column.

        Raises:
            ValueError: the pool has no such column, or its length is not N.
        """
        if name not in self.columns:
            raise ValueError(
                f"the pool has no column {name!r} of numbers or labels; it has {sorted(self.columns) or 'none'}. "
                "Add the column to the pool, or remove its name from the belief's `features` and `categories`."
            )
        values = np.asarray(self.columns[name])
        if len(values) != self.num_tasks:
            raise ValueError(f"column {name!r} has {len(values)} rows; expected {self.num_tasks}, one per task.")
        return values

    @cached_property
    def _grouping(self) -> tuple[list[str], npt.NDArray[Any]]:
        """Labels in the order of their first task, which does not change when a pool grows; (N,) position of each."""
        if not len(self.groups):
            return [""], np.zeros(self.num_tasks, dtype=np.uint8)
        places: dict[str, int] = {}
        codes = np.empty(self.num_tasks, dtype=np.int64)
        for start in range(0, self.num_tasks, CHUNK):
            labels = self.groups[start : start + CHUNK].tolist()  # a look-up is faster than sorting strings
            codes[start : start + CHUNK] = [places.setdefault(label, len(places)) for label in labels]
        return list(places), codes.astype(np.min_scalar_type(len(places)))

    @property
    def group_names(self) -> list[str]:
        """The K group labels; one empty label if the pool has no groups."""
        return self._grouping[0]

    @property
    def group_codes(self) -> npt.NDArray[Any]:
        """(N,) position of each task's group in `group_names`, in the smallest unsigned type that can hold it."""
        return self._grouping[1]


class Belief(ABC):
    """A probability distribution of every task's success probability.

    Call `setup` once, then `sample` and `observe` alternately. `state_dict` holds everything that changes, as numpy
    arrays, numbers and strings. `grid` and `cells` are for pools so large that a draw for every task takes too long;
    a custom belief can omit them.
    """

    @abstractmethod
    def setup(self, features: TaskFeatures) -> None:
        """Starts from the prior for the N tasks of a pool.

        Args:
            features: of the pool's tasks.

        Raises:
            ValueError: the pool lacks a column that this belief needs.
        """

    @abstractmethod
    def observe(self, evidence: Evidence) -> None:
        """Updates the belief about all tasks after a step.

        Args:
            evidence: one or more rows for each task of the step; rows of the same task are summed.
        """

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> FloatArray:
        """One draw of the success probability of every task, shape (N,)."""

    @abstractmethod
    def mean(self) -> FloatArray:
        """The posterior mean of the success probability of every task, shape (N,), in (0, 1)."""

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray] | None:
        """(α, β) of the Beta distribution, exact or matched, of tasks' success probabilities.

        Args:
            where: positions in the pool; all of it by default.

        Returns:
            α and β, each (N,) or as long as `where`, positive. None for a belief that has no such distribution; it
            cannot be scored by log predictive and coverage.
        """
        return None

    def grid(self) -> tuple[FloatArray, FloatArray] | None:
        """(α, β) at the centre of every cell, to which posteriors are rounded.

        Returns:
            α and β, each (rows, columns); None for a belief without cells.
        """
        return None

    def cells(self, where: slice) -> npt.NDArray[np.int32]:
        """The cell of each task's current posterior, computed in nanoseconds per task.

        Args:
            where: positions in the pool.

        Returns:
            A position in the flattened grid for each of these tasks.

        Raises:
            TypeError: this belief has no cells.
        """
        raise TypeError(
            f"{type(self).__name__} has no cells; implement `grid` and `cells`, or use it on smaller pools."
        )

    def add_tasks(self, features: TaskFeatures) -> None:
        """Adds the new tasks of a pool that has grown; their priors come from their group.

        Args:
            features: of the whole pool; its first tasks are those known before, in the same order.

        Raises:
            TypeError: this belief does not support it.
        """
        raise TypeError(f"{type(self).__name__} cannot add tasks during a run; implement `add_tasks`.")

    @property
    def reward_dispersion(self) -> RewardDispersion | None:
        """Dispersion of each group's rewards; None for a belief that treats all rewards as Bernoulli trials."""
        return None

    def metrics(self) -> dict[str, float]:
        """Metrics to log, by name."""
        return {}

    @abstractmethod
    def state_dict(self) -> State:
        """Everything that `observe` has changed."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Restores a state saved for the same pool."""
