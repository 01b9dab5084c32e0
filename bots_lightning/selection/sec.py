"""SEC: categories of tasks as arms of a bandit whose reward is the size of their advantages."""

# Shapes: K categories, B tasks to select, n categories that may be drawn from.

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


class SECSelector(BinnedSelector):
    """Draws the category of each task of a batch in proportion to exp(Q/τ), then a task of it.

        Q_c ← Q_c + η (r_c − Q_c)        for each category of the step, Q = 0 at the start

    r_c is the mean |A| of the category's rollouts in the step (`mean_absolute_advantages`). This is the self-evolving
    curriculum (SEC, arXiv:2505.14970), whose categories are kinds and levels of difficulty. Departures: |A| comes from
    success counts, and tasks of a category come in shuffled epochs.

    Args:
        bin_by: the categories: "group", or the name of a reference or a column of numbers or labels.
        num_bins: number of categories of a column of numbers, divided at its quantiles.
        learning_rate: η, weight of the last step.
        temperature: τ; smaller values prefer the best category more.
        scale_rewards: whether advantages are divided by the deviation of their "group", or "none".

    Raises:
        ValueError: an option is out of range, or none of its words.
    """

    def __init__(
        self,
        bin_by: str = GROUP,
        num_bins: int = 8,
        learning_rate: float = 0.5,
        temperature: float = 0.4,
        scale_rewards: AdvantageScale = "group",
    ) -> None:
        check_numbers(0, high=1, learning_rate=learning_rate)
        check_numbers(0, above=True, temperature=temperature)
        check_option("scale_rewards", scale_rewards, AdvantageScale)
        super().__init__(bin_by, num_bins)
        self.learning_rate = learning_rate
        self.temperature = temperature
        self.scale_rewards: AdvantageScale = scale_rewards

    def grow(self, old: int) -> None:
        """Starts categories at Q = 0."""
        if old == 0:
            self._values = np.empty(0)
        self._values = np.pad(self._values, (0, self.bins.count - old))

    def weights(self, bins: Indices) -> FloatArray:
        """exp(Q/τ) of categories, normalized, (n,)."""
        return boltzmann(self._values[bins], self.temperature)

    def observe(self, evidence: Evidence) -> None:
        """Moves Q of the step's categories towards their mean |A|."""
        evidence = evidence.merged()
        bins, row = np.unique(self.bins.of(evidence.indices), return_inverse=True)
        sizes = mean_absolute_advantages(evidence, self.scale_rewards)
        rewards = np.bincount(row, sizes * evidence.counts, len(bins)) / np.bincount(row, evidence.counts, len(bins))
        self._values[bins] += self.learning_rate * (rewards - self._values[bins])

    def metrics(self) -> dict[str, float]:
        """The largest share of a category."""
        return {"selection/largest_share": float(self.weights(self.bins.filled()).max())}

    def state_dict(self) -> dict[str, Any]:
        """Adds Q."""
        return super().state_dict() | {"values": self._values.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, epochs and Q.

        Raises:
            ValueError: the state was saved with another selector or pool.
        """
        super().load_state_dict(state)
        self._values = np.array(state["values"], dtype=np.float64)
