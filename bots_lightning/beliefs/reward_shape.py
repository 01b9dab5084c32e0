"""How far rewards are from coin flips: what makes intervals right for rewards that are not 0 or 1."""

# Shapes: B tasks in the step, K groups.

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.evidence import Evidence, Floats


class RewardShape:
    """Dispersion and share of extreme rewards of each group of tasks, pooled over its tasks and shrunk to coin flips.

        φ_g = (w + Σ W) / (w + Σ (F − (F − W)/n)),   W = Σ r² − (Σ r)²/n,   F = Σ r − (Σ r)²/n
        e_g = (w + #{r ∈ {0, 1}}) / (w + #{r})

    The sums of φ are over tasks, those of W and F over a task's n rewards: the variance within tasks over that of
    coin flips of the same mean. W estimates (n−1) Var(r) and F − (F − W)/n estimates (n−1) p(1−p), both without bias.
    Rewards of 0 and 1 have φ = e = 1, to the bit. A reward of variance φ p(1−p) says as much about p as 1/φ coin
    flips; raw counts of such rewards make intervals too wide by 1/√φ.

    Args:
        num_groups: K.
        prior: w, in units of a coin flip's variance for φ and of rewards for e.
        least: φ is not believed below this, whatever the data say.
    """

    def __init__(self, num_groups: int, prior: float = 1.0, least: float = 0.02) -> None:
        self.prior = prior
        self.least = least
        self.within, self.flips, self.extreme, self.rewards = np.full((4, num_groups), prior)

    def observe(self, evidence: Evidence, groups: npt.NDArray[np.int64]) -> None:
        """Adds the tasks of a step.

        Args:
            evidence: merged, B tasks.
            groups: (B,) group of each.
        """
        explained = evidence.successes**2 / evidence.counts
        within, flips = evidence.squares - explained, evidence.successes - explained
        for total, part in (
            (self.within, within),
            (self.flips, flips - (flips - within) / evidence.counts),
            (self.extreme, evidence.counts - evidence.interior),
            (self.rewards, evidence.counts),
        ):
            total += np.bincount(groups, part, len(total))

    @property
    def dispersion(self) -> Floats:
        """φ of each group, (K,)."""
        return np.maximum(self.within / self.flips, self.least)

    @property
    def extreme_share(self) -> Floats:
        """Share e of rewards at either end of the range, of each group, (K,)."""
        return self.extreme / self.rewards

    def as_coin_flips(self, evidence: Evidence, groups: npt.NDArray[np.int64]) -> Evidence:
        """The same evidence in counts of coin flips: everything divided by φ."""
        phi = self.dispersion[groups]
        if (phi == 1).all():
            return evidence
        return Evidence(evidence.indices, evidence.successes / phi, evidence.counts / phi, ages=evidence.ages)

    def grown(self, num_groups: int) -> RewardShape:
        """The same with so many groups; those that are new start at coin flips."""
        new = RewardShape(num_groups, self.prior, self.least)
        for name in ("within", "flips", "extreme", "rewards"):
            getattr(new, name)[: len(self.within)] = getattr(self, name)
        return new

    def state_dict(self) -> dict[str, Floats]:
        """The four sums."""
        return {"sums": np.stack([self.within, self.flips, self.extreme, self.rewards])}

    def load_state_dict(self, state: dict[str, Floats]) -> None:
        """Takes over the sums."""
        self.within, self.flips, self.extreme, self.rewards = np.array(state["sums"], dtype=np.float64)
