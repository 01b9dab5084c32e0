"""The probability that a group of rollouts is mixed, that is, that its rewards are not all equal.

A group whose rewards are all equal is degenerate: its group-relative advantages are 0, and nothing is learned from it.
"""

# Shapes: any; G rollouts per task.

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.beliefs.densities import beta_moment


def mixed_at(rates: FloatArray, rollouts: int | npt.NDArray[np.int64]) -> FloatArray:
    """U_G(p) = 1 − p^G − (1−p)^G, the probability that a group is mixed if p is known.

    Args:
        rates: (...) success probabilities p.
        rollouts: G.
    """
    mixed: FloatArray = 1 - rates**rollouts - (1 - rates) ** rollouts
    return mixed


def mixed_probability(
    alpha: FloatArray, beta: FloatArray, rollouts: int, extreme_share: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the probability that a group is mixed, for p ~ Beta(α, β).

        E[U_G] = 1 − (e α)_G/(α+β)_G − (e β)_G/(α+β)_G

    Rewards are at the top of their range with probability e·p, at the bottom with e·(1−p), and in between otherwise:
    a Dirichlet over {minimum, interior, maximum} with the weights (e β, (1−e)(α+β), e α). Rewards in between are
    assumed to differ. e = 1 is the case of rewards 0 and 1. The deviation measures what is not known of the task.

    Args:
        alpha: (...) α of each task's Beta.
        beta: (...) β.
        rollouts: G.
        extreme_share: e, share of rewards at either end of the range.

    Returns:
        Mean and standard deviation of U_G, each (...).
    """
    g, total = rollouts, alpha + beta
    top, bottom = alpha * extreme_share, beta * extreme_share
    solved, failed = beta_moment(top, total - top, g, 0), beta_moment(bottom, total - bottom, g, 0)
    squares = beta_moment(top, total - top, 2 * g, 0) + beta_moment(bottom, total - bottom, 2 * g, 0)
    both = _dirichlet_moment(top, bottom, total, g)
    variance = squares + 2 * both - (solved + failed) ** 2
    return 1 - solved - failed, np.sqrt(np.maximum(variance, 0))


def _dirichlet_moment(top: FloatArray, bottom: FloatArray, total: FloatArray, power: int) -> FloatArray:
    """E[q^n r^n] = (top)_n (bottom)_n / (total)_2n for two components q, r of a Dirichlet, where n is `power`."""
    moment = np.ones_like(total)
    for n in range(power):
        moment = moment * (top + n) / (total + n) * (bottom + n) / (total + power + n)
    return moment
