"""Dispersion of rewards: how much less they vary than the 0s and 1s of Bernoulli trials with the same mean."""

# Shapes: B tasks in the step, K groups.

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.evidence import Evidence, Floats


class RewardDispersion:
    """Dispersion φ and share of extreme rewards e of each group of tasks.

        φ_g = (w + Σ W) / (w + Σ (F − (F − W)/n)),   W = Σ r² − (Σ r)²/n,   F = Σ r − (Σ r)²/n
        e_g = (w + #{r ∈ {0, 1}}) / (w + #{r})

    φ is the dispersion parameter of a quasi-binomial model: the variance of rewards within tasks over that of
    Bernoulli trials of the same mean. Its sums are over tasks, those of W and F over the n rewards of a task:
    W estimates (n−1) Var(r) and F − (F − W)/n estimates (n−1) p(1−p), both without bias. The prior weight w shrinks
    both towards 1. Rewards of 0 and 1 give φ = e = 1 exactly. A reward of variance φ p(1−p) is worth 1/φ Bernoulli
    trials; without that correction, intervals are too wide by 1/√φ.

    Args:
        num_groups: K.
        prior: w; in units of p(1−p) for φ, in rewards for e.
        least: lower bound of φ.
    """

    def __init__(self, num_groups: int, prior: float = 1.0, least: float = 0.02) -> None:
        self.prior = prior
        self.least = least
        self.within, self.bernoulli, self.extreme, self.rewards = np.full((4, num_groups), prior)

    def observe(self, evidence: Evidence, groups: npt.NDArray[np.int64]) -> None:
        """Adds the rewards of a step.

        Args:
            evidence: merged, B tasks.
            groups: (B,) group of each task.
        """
        explained = evidence.successes**2 / evidence.counts
        within, bernoulli = evidence.squares - explained, evidence.successes - explained
        for total, added in (
            (self.within, within),
            (self.bernoulli, bernoulli - (bernoulli - within) / evidence.counts),
            (self.extreme, evidence.counts - evidence.interior),
            (self.rewards, evidence.counts),
        ):
            total += np.bincount(groups, added, len(total))

    @property
    def dispersion(self) -> Floats:
        """φ of each group, (K,)."""
        phi: Floats = np.maximum(self.within / self.bernoulli, self.least)
        return phi

    @property
    def extreme_share(self) -> Floats:
        """Share e of rewards that lie at either end of their range, of each group, (K,)."""
        share: Floats = self.extreme / self.rewards
        return share

    def as_bernoulli_trials(self, evidence: Evidence, groups: npt.NDArray[np.int64]) -> Evidence:
        """Converts evidence to equivalent counts of Bernoulli trials by dividing it by φ.

        Args:
            evidence: merged, B tasks.
            groups: (B,) group of each task.

        Returns:
            Evidence of the same tasks; the argument itself where φ = 1 for all of them.
        """
        phi = self.dispersion[groups]
        if (phi == 1).all():
            return evidence
        return Evidence(evidence.indices, evidence.successes / phi, evidence.counts / phi, ages=evidence.ages)

    def grown(self, num_groups: int) -> RewardDispersion:
        """Returns a copy for more groups; new groups start at φ = e = 1."""
        new = RewardDispersion(num_groups, self.prior, self.least)
        for name in ("within", "bernoulli", "extreme", "rewards"):
            getattr(new, name)[: len(self.within)] = getattr(self, name)
        return new

    def state_dict(self) -> dict[str, Floats]:
        """The four sums."""
        return {"sums": np.stack([self.within, self.bernoulli, self.extreme, self.rewards])}

    def load_state_dict(self, state: dict[str, Floats]) -> None:
        """Restores the sums."""
        self.within, self.bernoulli, self.extreme, self.rewards = np.array(state["sums"], dtype=np.float64)
