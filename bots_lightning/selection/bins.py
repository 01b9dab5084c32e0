"""Bins of tasks, by group, by a column, or each task by itself, and shuffled epochs within each bin."""

# Shapes: N tasks in the pool, K bins, B tasks to select, n bins that may be drawn from.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.chunks import Indices

# Values of `bin_by` that are not names of columns.
GROUP, TASK = "group", "task"


class Bins:
    """The bin of each task of a pool. Tasks keep their bins when the pool grows.

    Args:
        features: of the pool's tasks.
        bin_by: "group", the name of a reference or a column, or "task", which makes each task a bin by itself. Labels
            are bins as they are; numbers are divided at their quantiles, those that are unknown are a bin of their own.
        num_bins: number of bins of a column of numbers; fewer if many tasks share a number.

    Attributes:
        codes: (N,) bin of each task; None if each task is a bin by itself.
        count: K; some may be empty.

    Raises:
        ValueError: the pool has no such column, or not one number or label per task.
    """

    codes: npt.NDArray[Any] | None

    def __init__(self, features: TaskFeatures, bin_by: str, num_bins: int) -> None:
        self.bin_by = bin_by
        self._edges: FloatArray | None = None
        if bin_by not in (GROUP, TASK):
            values = _column(features, bin_by)
            if values.dtype.kind == "f":
                known = values[~np.isnan(values)]
                inner = np.arange(1, num_bins) / num_bins
                self._edges = np.unique(np.quantile(known, inner)) if len(known) else np.empty(0)
        self.grow(features)

    def grow(self, features: TaskFeatures) -> None:
        """Sorts the tasks of a pool that has grown into the same bins; new labels are new bins.

        Args:
            features: of the whole pool; its first tasks are those known before, in the same order.
        """
        if self.bin_by == TASK:
            self.codes, self.count = None, features.num_tasks
        elif self._edges is None:
            labels = features if self.bin_by == GROUP else _grouped(_column(features, self.bin_by))
            self.codes, self.count = labels.group_codes, len(labels.group_names)
        else:
            values = _column(features, self.bin_by)
            codes = np.searchsorted(self._edges, values, side="right")  # NaN comes after all edges …
            codes[np.isnan(values)] += 1  # … in a bin of its own
            self.count = len(self._edges) + 2
            self.codes = codes.astype(np.min_scalar_type(self.count))
        self._sizes = None if self.codes is None else np.bincount(self.codes, minlength=self.count)

    def of(self, tasks: Indices) -> Indices:
        """The bins of these tasks, as long as `tasks`."""
        return tasks if self.codes is None else self.codes[tasks].astype(np.int64)

    def filled(self) -> Indices:
        """The bins that hold tasks, ascending."""
        return np.arange(self.count) if self._sizes is None else np.flatnonzero(self._sizes)

    def sizes(self, bins: Indices) -> Indices:
        """Number of tasks in each of these bins, as long as `bins`."""
        return np.ones(len(bins), dtype=np.int64) if self._sizes is None else self._sizes[bins]


class BinnedEpochs:
    """Draws tasks of bins: those of a bin come in shuffled epochs, so that each comes equally often.

    Args:
        bins: of the pool's tasks.
        rng: shuffles each bin's first epoch.
    """

    def __init__(self, bins: Bins, rng: np.random.Generator) -> None:
        self._order = np.empty(0, dtype=np.int64)  # (N,) the epochs of all bins, one after the other
        self._cursors = np.empty(0, dtype=np.int64)  # (K,) how many tasks of a bin's epoch have been drawn
        self.grow(bins, rng)

    def grow(self, bins: Bins, rng: np.random.Generator) -> None:
        """Inserts new tasks at random places in the rest of their bins' epochs, which are shuffled again.

        Args:
            bins: of the whole pool.
            rng: shuffles.
        """
        self._bins = bins
        if bins.codes is None:
            return
        shuffled, drawn = rng.permutation(len(bins.codes)), self._drawn()
        if len(drawn):
            shuffled = np.concatenate([drawn, shuffled[~np.isin(shuffled, drawn)]])  # those stay first, in order
        self._order = shuffled[np.argsort(bins.codes[shuffled], kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(bins.sizes(np.arange(bins.count)))])
        self._cursors = np.pad(self._cursors, (0, bins.count - len(self._cursors)))

    def _drawn(self) -> Indices:
        """The tasks that have been drawn in the present epochs, in their order."""
        begun = np.flatnonzero(self._cursors).tolist()
        parts = [self._order[self._starts[bin_] : self._starts[bin_] + self._cursors[bin_]] for bin_ in begun]
        return np.concatenate([self._order[:0], *parts])

    def draw(self, bins: Indices, weights: FloatArray, size: int, rng: np.random.Generator) -> Indices:
        """Draws a bin in proportion to the weights for every place of a batch, then the next tasks of each bin.

        A bin all of whose tasks are in the batch is drawn no more. With one task in each bin, this is sampling without
        replacement.

        Args:
            bins: (n,) bins to draw from, which hold enough tasks.
            weights: (n,) at least 0.
            size: B.
            rng: draws.

        Returns:
            (B,) positions in the pool, all different.
        """
        sizes, counts = self._bins.sizes(bins), np.zeros(len(bins), dtype=np.int64)
        while (missing := size - counts.sum()) > 0:
            left = np.where(counts < sizes, weights, 0.0)
            if not left.any():
                left = (counts < sizes).astype(np.float64)
            counts = np.minimum(counts + rng.multinomial(missing, left / left.sum()), sizes)
        drawn = np.flatnonzero(counts)
        if self._bins.codes is None:
            return bins[drawn]
        pairs = zip(bins[drawn].tolist(), counts[drawn].tolist(), strict=True)
        return np.concatenate([self._next(bin_, count, rng) for bin_, count in pairs])

    def _next(self, bin_: int, count: int, rng: np.random.Generator) -> Indices:
        """The next tasks of a bin; a new epoch moves those of this batch to its end."""
        epoch, cursor = self._order[self._starts[bin_] : self._starts[bin_ + 1]], int(self._cursors[bin_])
        tasks = epoch[cursor : cursor + count].copy()
        self._cursors[bin_] = cursor + len(tasks)
        if len(tasks) < count:
            fresh = rng.permutation(epoch)
            taken = np.isin(fresh, tasks)
            epoch[:] = np.concatenate([fresh[~taken], fresh[taken]])
            self._cursors[bin_] = count - len(tasks)
            tasks = np.concatenate([tasks, epoch[: count - len(tasks)]])
        return tasks

    def state_dict(self) -> dict[str, Any]:
        """The epochs and the positions in them."""
        return {"epochs": self._order.copy(), "cursors": self._cursors.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the epochs and the positions in them."""
        self._order = np.array(state["epochs"], dtype=np.int64)
        self._cursors = np.array(state["cursors"], dtype=np.int64)


def _column(features: TaskFeatures, name: str) -> npt.NDArray[Any]:
    """A reference or another column, (N,): float or labels."""
    if name not in features.references and name not in features.columns:
        raise ValueError(
            f"bin_by={name!r}; expected 'group', 'task', or a column of the pool, which has "
            f"{sorted({*features.references, *features.columns}) or 'none'}. Correct the name, or add the column."
        )
    values = features.references[name] if name in features.references else np.asarray(features.columns[name])
    if values.shape != (features.num_tasks,):
        raise ValueError(f"bin_by={name!r}: the column has the shape {values.shape}; expected one value per task.")
    return values.astype(np.float64) if values.dtype.kind in "biu" else values


def _grouped(labels: npt.NDArray[np.str_]) -> TaskFeatures:
    """Features whose groups are these labels."""
    return TaskFeatures(len(labels), groups=labels)
