"""Base class of selectors that choose bins of tasks."""

# Shapes: N tasks in the pool, K bins, B tasks to select, n bins that may be drawn from.

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.options import check_numbers
from bots_lightning.selection.bins import GROUP, BinnedEpochs, Bins
from bots_lightning.selection.chunks import Indices
from bots_lightning.selection.selector import TaskSelector

# With more tasks than this as bins, each selection draws from so many random ones.
MOST_BINS = 1 << 14


class BinnedSelector(TaskSelector):
    """Draws a bin in proportion to its weight for every place of a batch, then tasks of the bins.

    The tasks of a bin come in shuffled epochs. Subclasses implement `weights`, and `grow` if they hold something for
    each bin.

    Args:
        bin_by: "group", the name of a reference or a column of numbers or labels, or "task", which makes each task a
            bin by itself.
        num_bins: number of bins of a column of numbers, divided at its quantiles.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, bin_by: str = GROUP, num_bins: int = 8) -> None:
        check_numbers(1, num_bins=num_bins)
        self.bin_by = bin_by
        self.num_bins = num_bins

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Sorts the tasks into bins, and shuffles each bin's first epoch.

        Args:
            features: of the pool's tasks.
            seed: of the generator that draws.

        Raises:
            ValueError: the pool has no such column, or not one number or label per task.
        """
        super().setup(features, seed)
        self.bins = Bins(features, self.bin_by, self.num_bins)
        self._epochs = BinnedEpochs(self.bins, self.rng)
        self.grow(0)

    def add_tasks(self, features: TaskFeatures) -> None:
        """Sorts the new tasks into the bins, and inserts them into the rest of their epochs.

        Raises:
            ValueError: there are fewer tasks than before, or a column is missing.
        """
        super().add_tasks(features)
        old = self.bins.count
        self.bins.grow(features)
        self._epochs.grow(self.bins, self.rng)
        self.grow(old)

    def grow(self, old: int) -> None:
        """Starts what is held for each bin.

        Args:
            old: number of bins known before; 0 starts afresh.
        """

    @abstractmethod
    def weights(self, bins: Indices) -> FloatArray:
        """The weights of bins.

        Args:
            bins: (n,) bins that hold tasks.

        Returns:
            (n,) at least 0; they need not sum to 1.
        """

    def select(self, batch_size: int) -> Indices:
        """(B,) positions of the selected tasks, bin by bin."""
        self.check_batch_size(batch_size)
        if self.bins.codes is None and self.num_tasks > MOST_BINS:
            bins = self.rng.choice(self.num_tasks, min(self.num_tasks, max(MOST_BINS, batch_size)), replace=False)
        else:
            bins = self.bins.filled()
        return self._epochs.draw(bins, self.weights(bins), batch_size, self.rng)

    def state_dict(self) -> dict[str, Any]:
        """Adds the epochs of the bins."""
        return super().state_dict() | self._epochs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator and epochs."""
        super().load_state_dict(state)
        self._epochs.load_state_dict(state)
