"""Learnability: bins of tasks, or single tasks, by how often their rewards would differ at a drawn pass rate."""

# Shapes: N tasks in the pool, K bins, B tasks to select, n bins that may be drawn from.

from __future__ import annotations

from typing import Any

import numpy as np

from bots_lightning.beliefs import Evidence
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.options import check_numbers
from bots_lightning.selection.binned import BinnedSelector
from bots_lightning.selection.bins import GROUP
from bots_lightning.selection.chunks import Indices
from bots_lightning.selection.informative import mixed_at


def floored(weights: FloatArray, floor: float) -> FloatArray:
    """Shares in proportion to weights, none below floor/n before they are normalized again.

    Args:
        weights: (n,) at least 0.
        floor: share of what each would have if all were equal.

    Returns:
        (n,) shares that sum to 1.
    """
    total = weights.sum()
    shares: FloatArray = weights / total if total > 0 else np.full(len(weights), 1 / len(weights))
    shares = np.maximum(shares, floor / len(weights))
    shares /= shares.sum()
    return shares


class LearnabilitySelector(BinnedSelector):
    """Draws a pass rate p̂ for every bin and selects bins in proportion to the probability that a group is mixed.

        S_k ← γ S_k + s_k + ρ/2,   N_k ← γ N_k + n_k + ρ        at each step, s_k of n_k rollouts solved in bin k
        p̂_k ~ Beta(α0 + S_k, β0 + N_k − S_k),   weight 1 − p̂ⁿ − (1−p̂)ⁿ, at least `floor`/K of their sum

    This is the sampler "learnability" of marin-community/marin, issue 8765, whose weight p(1−p) is half the one for
    n = 2. Its bins are data sources by level; with `bin_by: task` the same rule holds for every task. The reversion
    mass ρ lets a bin that is hardly tried return to p = 1/2. Fractional successes count as they are.

    Departures: tasks of a bin come in shuffled epochs. With more than 16,384 tasks as bins, each selection draws among
    16,384 random ones, so that a task is selected as often as its weight says as long as batches are much smaller.

    Args:
        bin_by: "group", the name of a reference or a column, or "task", each task by itself.
        num_bins: number of bins of a column of numbers, divided at its quantiles.
        decay: γ, the share of the evidence that is kept at each step.
        reversion_mass: ρ, rollouts at p = 1/2 that are added to every bin at each step.
        group_size: n of the weight; 2 is p(1−p).
        floor: least share of a bin, as a multiple of 1/K.
        prior: (α0, β0).

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        bin_by: str = GROUP,
        num_bins: int = 8,
        decay: float = 0.95,
        reversion_mass: float = 0.0,
        group_size: int = 2,
        floor: float = 0.05,
        prior: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        check_numbers(0, high=1, decay=decay, floor=floor)
        check_numbers(0, below=True, reversion_mass=reversion_mass)
        check_numbers(2, below=True, group_size=group_size)
        check_numbers(0, above=True, below=True, alpha0=prior[0], beta0=prior[1])
        super().__init__(bin_by, num_bins)
        self.decay = decay
        self.reversion_mass = reversion_mass
        self.group_size = group_size
        self.floor = floor
        self.prior = prior

    def grow(self, old: int) -> None:
        """Starts bins from the prior."""
        if old == 0:
            self.steps = 0
            self._successes, self._counts = np.empty(0), np.empty(0)
            self._updated = np.empty(0, dtype=np.int32)  # the step at which these were true
        new = self.bins.count - old
        self._successes, self._counts = np.pad(self._successes, (0, new)), np.pad(self._counts, (0, new))
        self._updated = np.pad(self._updated, (0, new), constant_values=self.steps)

    def evidence_of(self, bins: Indices) -> tuple[FloatArray, FloatArray]:
        """(S, N) of bins at the present step.

        Args:
            bins: (n,).

        Returns:
            Decayed successes and counts with the reversion mass, each (n,).
        """
        steps = self.steps - self._updated[bins]
        kept = self.decay**steps
        terms = steps if self.decay == 1 else (1 - kept) / (1 - self.decay)
        reverted = self.reversion_mass * terms
        return kept * self._successes[bins] + reverted / 2, kept * self._counts[bins] + reverted

    def concentrations(self, bins: Indices) -> tuple[FloatArray, FloatArray]:
        """(α, β) of the mean pass rate of bins, each (n,)."""
        successes, counts = self.evidence_of(bins)
        return self.prior[0] + successes, self.prior[1] + np.maximum(counts - successes, 0)

    def weights(self, bins: Indices) -> FloatArray:
        """The shares of bins at pass rates that are drawn anew, (n,)."""
        rates = self.rng.beta(*self.concentrations(bins))
        return floored(np.maximum(mixed_at(rates, self.group_size), 0), self.floor)

    def forecast(self, indices: Indices) -> tuple[FloatArray, FloatArray] | None:
        """(α, β) of these tasks if each is a bin by itself; None otherwise, as tasks of a bin differ."""
        return self.concentrations(indices) if self.bins.codes is None else None

    def observe(self, evidence: Evidence) -> None:
        """Adds the counts of a step to its bins; the evidence of all bins decays."""
        self.steps += 1
        evidence = evidence.merged()
        bins, row = np.unique(self.bins.of(evidence.indices), return_inverse=True)
        successes, counts = self.evidence_of(bins)
        self._successes[bins] = successes + np.bincount(row, evidence.successes, len(bins))
        self._counts[bins] = counts + np.bincount(row, evidence.counts, len(bins))
        self._updated[bins] = self.steps

    def state_dict(self) -> dict[str, Any]:
        """Adds the evidence of each bin."""
        arrays = {"successes": self._successes.copy(), "counts": self._counts.copy(), "updated": self._updated.copy()}
        return super().state_dict() | arrays | {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, epochs and evidence.

        Raises:
            ValueError: the state was saved with another selector or pool.
        """
        super().load_state_dict(state)
        self.steps = int(state["steps"])
        self._successes = np.array(state["successes"], dtype=np.float64)
        self._counts = np.array(state["counts"], dtype=np.float64)
        self._updated = np.array(state["updated"], dtype=np.int32)
