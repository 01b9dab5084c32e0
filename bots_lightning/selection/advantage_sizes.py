"""How large a group's advantages are: their mean absolute value, from the sums that evidence holds."""

# Shapes: B tasks in the step, n scores.

from __future__ import annotations

from typing import Literal

import numpy as np

from bots_lightning.beliefs import Evidence
from bots_lightning.beliefs.belief import FloatArray

AdvantageScale = Literal["group", "none"]
EQUAL = 1e-9  # a variance that is rounding


def mean_absolute_advantages(evidence: Evidence, scale_rewards: AdvantageScale = "group") -> FloatArray:
    """The mean absolute group-relative advantage of each task's rollouts, exact for rewards of 0 and 1.

    With s successes in n rollouts and p = s/n, the s successes have the advantage 1 − p and the others −p, so that

        mean |A| = (s (1−p) + (n−s) p) / n = 2 p (1−p)                                        scale "none"

    GRPO divides by the unbiased standard deviation √(p (1−p) n/(n−1)), hence

        mean |A| = 2 √(p (1−p)) √((n−1)/n)                                                    scale "group"

    without the ε that GRPO adds to the deviation. Other rewards are taken to have two values, whose mean p and variance
    v are those of the group: the first becomes 2 √(p (1−p) v), the second stays. Equal rewards give 0.

    Args:
        evidence: with one or more rollouts in every row.
        scale_rewards: whether advantages are divided by the deviation of their "group", as in GRPO, or "none".

    Returns:
        (B,) in [0, 1).
    """
    count, rate = evidence.counts, evidence.successes / evidence.counts
    binary = rate * (1 - rate)
    variance = evidence.squares / count - rate**2
    squares = binary * (variance if scale_rewards == "none" else (count - 1) / count)
    sizes: FloatArray = 2 * np.sqrt(np.where(variance > EQUAL, squares, 0.0))
    return sizes


def boltzmann(scores: FloatArray, temperature: float) -> FloatArray:
    """Shares in proportion to exp(score/temperature), (n,), which sum to 1.

    Args:
        scores: (n,).
        temperature: τ > 0; smaller values prefer the best more.
    """
    shares: FloatArray = np.exp((scores - scores.max()) / temperature)
    shares /= shares.sum()
    return shares
