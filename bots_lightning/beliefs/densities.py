"""Densities and moments of Beta distributions, elementwise."""

# Shapes: any; arguments of a function broadcast.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln, gammaln, xlog1py, xlogy

from bots_lightning.beliefs.belief import FloatArray


def log_density(x: FloatArray | float, alpha: FloatArray, beta: FloatArray) -> FloatArray:
    """Log density of Beta(α, β) at x: (α−1) log x + (β−1) log(1−x) − log B(α, β).

    Args:
        x: (...) in [0, 1].
        alpha: (...) α.
        beta: (...) β.
    """
    logs: FloatArray = _log_kernel(x, alpha, beta) - betaln(alpha, beta)
    return logs


def probability_below(bound: float, alpha: FloatArray, beta: FloatArray) -> FloatArray:
    """P(x ≤ bound) of Beta(α, β).

    Args:
        bound: in [0, 1].
        alpha: (...) α.
        beta: (...) β.
    """
    below: FloatArray = betainc(alpha, beta, bound)
    return below


def _log_kernel(x: FloatArray | float, alpha: FloatArray, beta: FloatArray) -> FloatArray:
    """The log density without its normalizing constant, which takes as long to compute."""
    logs: FloatArray = xlogy(alpha - 1, x) + xlog1py(beta - 1, -np.asarray(x))
    return logs


def largest_density(low: float, high: float, alpha: FloatArray, beta: FloatArray) -> FloatArray:
    """The largest density of Beta(α, β) within [low, high]; inf where it has a pole there.

    It is at the mode if that lies within, else at an end: the density rises up to the mode and falls after it or, for
    α or β below 1, is largest at an end.

    Args:
        low: lower end of the interval, in [0, 1].
        high: upper end.
        alpha: (...) α.
        beta: (...) β.
    """
    inner = (alpha > 1) & (beta > 1)
    mode = np.where(inner, (alpha - 1) / np.where(inner, alpha + beta - 2, 1.0), low)
    logs = [_log_kernel(x, alpha, beta) for x in (low, high, np.clip(mode, low, high))]
    with np.errstate(over="ignore"):
        density: FloatArray = np.exp(np.max(logs, axis=0) - betaln(alpha, beta))
    return density


def beta_moment(alpha: FloatArray, beta: FloatArray, i: int, j: int) -> FloatArray:
    """E[p^i (1−p)^j] = (α)_i (β)_j / (α+β)_(i+j) for p ~ Beta(α, β); (x)_n is the rising factorial.

    Args:
        alpha: (...) α.
        beta: (...) β.
        i: exponent of p.
        j: exponent of 1 − p.
    """
    moment = np.ones_like(alpha)
    for n in range(i):  # factor by factor, as the factorials overflow
        moment = moment * (alpha + n) / (alpha + beta + n)
    for n in range(j):
        moment = moment * (beta + n) / (alpha + beta + i + n)
    return moment


def beta_binomial_log_pmf(
    successes: npt.NDArray[Any], counts: npt.NDArray[Any], alpha: FloatArray, beta: FloatArray
) -> FloatArray:
    """Log probability of s successes in n rollouts when p ~ Beta(α, β), in nats; all arguments broadcast.

        log C(n, s) + log B(α + s, β + n − s) − log B(α, β)

    Fractional counts are interpolated by the gamma function.

    Args:
        successes: (...) s.
        counts: (...) n.
        alpha: (...) α.
        beta: (...) β.
    """
    choices = gammaln(counts + 1) - gammaln(successes + 1) - gammaln(counts - successes + 1)
    logs: FloatArray = choices + betaln(alpha + successes, beta + counts - successes) - betaln(alpha, beta)
    return logs
