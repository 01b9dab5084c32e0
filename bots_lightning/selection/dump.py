"""DUMP: categories of tasks by an upper confidence bound of the size of their advantages."""

# Shapes: K categories, W rollouts of a window, B tasks to select, n categories that may be drawn from.

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import Evidence
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.options import check_numbers, check_option
from bots_lightning.selection.advantage_sizes import AdvantageScale, boltzmann, mean_absolute_advantages
from bots_lightning.selection.binned import BinnedSelector
from bots_lightning.selection.bins import GROUP
from bots_lightning.selection.chunks import Indices


class DUMPSelector(BinnedSelector):
    """Draws the category of each task of a batch in proportion to exp(UCB/τ), then a task of it.

        UCB_c = L_c + √(2 log(1 + Σ_d n_d) / (1 + n_c))

    L_c is the mean |A| over the last W rollouts of the category (`mean_absolute_advantages`), n_c the number of all its
    rollouts. This is DUMP (arXiv:2504.09710), whose categories are data sources and levels of difficulty. Departures:
    |A| comes from success counts, so that each rollout has the mean |A| of its group, and tasks of a category come in
    shuffled epochs.

    Args:
        bin_by: the categories: "group", or the name of a reference or a column of numbers or labels.
        num_bins: number of categories of a column of numbers, divided at its quantiles.
        window: W, in rollouts; as many numbers are held for each category.
        temperature: τ; smaller values prefer the best category more.
        scale_rewards: whether advantages are divided by the deviation of their "group", or "none".

    Raises:
        ValueError: an option is out of range, or none of its words.
    """

    _recent: FloatArray  # (K, W) |A|, the latest over the oldest
    _rollouts: Indices  # (K,) n

    def __init__(
        self,
        bin_by: str = GROUP,
        num_bins: int = 8,
        window: int = 300,
        temperature: float = 0.1,
        scale_rewards: AdvantageScale = "group",
    ) -> None:
        check_numbers(1, below=True, window=window)
        check_numbers(0, above=True, temperature=temperature)
        check_option("scale_rewards", scale_rewards, AdvantageScale)
        super().__init__(bin_by, num_bins)
        self.window = window
        self.temperature = temperature
        self.scale_rewards: AdvantageScale = scale_rewards

    def grow(self, old: int) -> None:
        """Starts categories without rollouts."""
        if old == 0:
            self._recent, self._rollouts = np.empty((0, self.window)), np.empty(0, dtype=np.int64)
        new = self.bins.count - old
        self._recent, self._rollouts = np.pad(self._recent, [(0, new), (0, 0)]), np.pad(self._rollouts, (0, new))

    def bounds(self, bins: Indices) -> FloatArray:
        """UCB of categories, (n,)."""
        rollouts = self._rollouts[bins]
        means: FloatArray = self._recent[bins].sum(axis=1) / np.clip(rollouts, 1, self.window)
        means += np.sqrt(2 * np.log1p(self._rollouts.sum()) / (1 + rollouts))
        return means

    def weights(self, bins: Indices) -> FloatArray:
        """exp(UCB/τ) of categories, normalized, (n,)."""
        return boltzmann(self.bounds(bins), self.temperature)

    def observe(self, evidence: Evidence) -> None:
        """Writes the step's |A| into the windows of its categories."""
        evidence = evidence.merged()
        bins = self.bins.of(evidence.indices)
        sizes = mean_absolute_advantages(evidence, self.scale_rewards)
        counts = np.rint(evidence.counts).astype(np.int64)
        for bin_ in np.unique(bins).tolist():
            mine = bins == bin_
            values = np.repeat(sizes[mine], counts[mine])
            places = self._rollouts[bin_] + np.arange(len(values))
            self._recent[bin_, places[-self.window :] % self.window] = values[-self.window :]
            self._rollouts[bin_] += len(values)

    def metrics(self) -> dict[str, float]:
        """The largest share of a category."""
        return {"selection/largest_share": float(self.weights(self.bins.filled()).max())}

    def state_dict(self) -> dict[str, Any]:
        """Adds the windows and the numbers of rollouts."""
        return super().state_dict() | {"recent": self._recent.copy(), "rollouts": self._rollouts.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, epochs, windows and numbers of rollouts.

        Raises:
            ValueError: the state was saved with another selector, pool or window.
        """
        super().load_state_dict(state)
        recent = np.array(state["recent"], dtype=np.float64)
        if recent.shape != self._recent.shape:
            raise ValueError(
                f"the saved selector's windows have the shape {recent.shape}, this one's {self._recent.shape}. Resume "
                "with the `window` and the bins of the checkpoint's config."
            )
        self._recent = recent
        self._rollouts = np.array(state["rollouts"], dtype=np.int64)
