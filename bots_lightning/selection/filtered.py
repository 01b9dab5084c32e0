"""Base class of selectors that draw uniformly among the tasks whose pass rate a filter lets through."""

# Shapes: N tasks in the pool, B tasks to select, n tasks of a question.

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.chunks import Indices
from bots_lightning.selection.selector import TaskSelector


class FilteredSelector(TaskSelector):
    """Draws in shuffled epochs the tasks that pass a filter of their pass rates, so far at every visit.

    A task that fails at a visit is not tried again, so that nothing new is learned of it. Once fewer tasks than a batch
    are left, the visits are forgotten, and the filter starts over. Subclasses implement `passes`, and override
    `rates_before` if pass rates are known before the run.
    """

    # Whether the pass rates of visits count.
    measured = True

    @abstractmethod
    def passes(self, rates: FloatArray) -> npt.NDArray[np.bool_]:
        """Whether tasks may be selected.

        Args:
            rates: (n,) pass rates, NaN where unknown.

        Returns:
            (n,) bool.
        """

    def rates_before(self, features: TaskFeatures) -> FloatArray:
        """Pass rates known before the run, (N,), NaN where unknown; all unknown by default."""
        return np.full(features.num_tasks, np.nan)

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Filters the pool and shuffles the first epoch.

        Args:
            features: of the pool's tasks.
            seed: of the generator that shuffles.

        Raises:
            ValueError: the pool lacks a column.
        """
        super().setup(features, seed)
        self._epoch, self._cursor = np.empty(0, dtype=np.int64), 0  # the tasks of this epoch, and how many were drawn
        self._before = self.passes(self.rates_before(features))  # (N,) what passes before the run
        self._open = self._before.copy()  # (N,) what passes now
        self._begin_epoch([])

    def add_tasks(self, features: TaskFeatures) -> None:
        """Inserts the new tasks that pass into the rest of the current epoch."""
        old = self.num_tasks
        super().add_tasks(features)
        self._before = self.passes(self.rates_before(features))
        self._open = np.concatenate([self._open, self._before[old:]])
        new = old + np.flatnonzero(self._before[old:])
        self._num_open += len(new)
        rest = self.rng.permutation(np.concatenate([self._epoch[self._cursor :], new]))
        self._epoch = np.concatenate([self._epoch[: self._cursor], rest])

    def _begin_epoch(self, batch: list[int]) -> None:
        """Shuffles the tasks that pass; those of this batch come last."""
        fresh = self.rng.permutation(np.flatnonzero(self._open))
        taken = np.isin(fresh, batch)
        self._epoch, self._cursor = np.concatenate([fresh[~taken], fresh[taken]]), 0
        self._num_open = len(fresh)

    def _start_over(self, batch_size: int) -> None:
        """Forgets the visits.

        Raises:
            ValueError: too few tasks pass even so.
        """
        passing = int(self._before.sum())
        if passing < batch_size:
            raise ValueError(
                f"{passing} of {self.num_tasks} tasks pass the filter of {type(self).__name__}, fewer than "
                f"batch_size={batch_size}. Widen the filter, lower data.batch_size or add tasks."
            )
        self._open = self._before.copy()
        self._begin_epoch([])

    def select(self, batch_size: int) -> Indices:
        """(B,) positions of the next tasks of the shuffled epochs that pass.

        Raises:
            ValueError: the batch is empty or exceeds the pool, or what the filter lets through.
        """
        self.check_batch_size(batch_size)
        if self._num_open < batch_size:
            self._start_over(batch_size)
        batch: list[int] = []
        while len(batch) < batch_size:
            if self._cursor == len(self._epoch):
                self._begin_epoch(batch)
            task = int(self._epoch[self._cursor])
            self._cursor += 1
            if self._open[task]:  # it may have failed since the epoch began
                batch.append(task)
        return np.array(batch, dtype=np.int64)

    def observe(self, evidence: Evidence) -> None:
        """Filters the tasks of the step by their pass rate in it."""
        if not self.measured:
            return
        evidence = evidence.merged()
        tasks = evidence.indices
        fails = self._open[tasks] & ~self.passes(evidence.successes / evidence.counts)
        self._open[tasks[fails]] = False
        self._num_open -= int(fails.sum())

    def metrics(self) -> dict[str, float]:
        """Share of the pool that passes."""
        return {"selection/eligible_share": self._num_open / self.num_tasks}

    def state_dict(self) -> dict[str, Any]:
        """Adds what passes, and the rest of the epoch."""
        state = {"open": self._open.copy(), "epoch": self._epoch.copy(), "cursor": self._cursor}
        return super().state_dict() | state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, filter and epoch."""
        super().load_state_dict(state)
        self._open = np.array(state["open"], dtype=np.bool_)
        self._num_open = int(self._open.sum())
        self._epoch = np.array(state["epoch"], dtype=np.int64)
        self._cursor = int(state["cursor"])
