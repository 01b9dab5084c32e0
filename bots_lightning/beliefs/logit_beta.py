"""Beta distributions by the mean and variance of their logit: exact both ways, and tabulated for whole pools."""

# Shapes: any; both arguments of a function have the same.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import digamma, zeta

from bots_lightning.beliefs.belief import FloatArray

_LARGEST_MEAN = 30.0


def logit_moments(alpha: FloatArray, beta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of logit p for p ~ Beta(α, β): ψ(α) − ψ(β) and ψ₁(α) + ψ₁(β).

    Args:
        alpha: (...) α, positive.
        beta: (...) β, positive.
    """
    return digamma(alpha) - digamma(beta), zeta(2, alpha) + zeta(2, beta)  # ψ₁(x) = ζ(2, x)


def match_beta(mean: FloatArray, variance: FloatArray, iterations: int = 30) -> tuple[FloatArray, FloatArray]:
    """(α, β) of the Beta whose logit has this mean m and this variance v: the inverse of `logit_moments`.

    Damped Newton in (log α, log β). West, Harrison & Migon (1985) take α = (1 + e^m)/v, β = (1 + e^−m)/v, which is
    right for many counts and the starting point here. At v = 9 it is three times too small: an update that used it
    would inflate the variance of tasks that are hardly known.

    Args:
        mean: (...) m; beyond ±30 it counts as ±30.
        variance: (...) v, positive.
        iterations: the most Newton steps; it stops earlier where it has converged, usually after 6.
    """
    mean = np.clip(mean, -_LARGEST_MEAN, _LARGEST_MEAN)
    least = np.sqrt(0.5 / variance)
    log_alpha = np.log(np.maximum((1 + np.exp(mean)) / variance, least))
    log_beta = np.log(np.maximum((1 + np.exp(-mean)) / variance, least))
    for _ in range(iterations):
        step_alpha, step_beta = _newton_step(np.exp(log_alpha), np.exp(log_beta), mean, variance)
        length = np.maximum(np.abs(step_alpha), np.abs(step_beta))
        damping = np.minimum(1, 1.5 / np.maximum(length, 1.0))
        log_alpha, log_beta = log_alpha - damping * step_alpha, log_beta - damping * step_beta
        if (length < 1e-8).all():  # convergence is quadratic: the next step would be below 1e-15
            break
    return np.exp(log_alpha), np.exp(log_beta)


def _newton_step(
    alpha: FloatArray, beta: FloatArray, mean: FloatArray, variance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """How far (log α, log β) lie beyond the root of the errors in m and in log v; ψ₂(x) = −2ζ(3, x)."""
    trigamma_alpha, trigamma_beta = zeta(2, alpha), zeta(2, beta)
    total = trigamma_alpha + trigamma_beta
    error_mean = digamma(alpha) - digamma(beta) - mean
    error_variance = np.log(total / variance)
    mean_by_alpha, mean_by_beta = alpha * trigamma_alpha, -beta * trigamma_beta
    variance_by_alpha, variance_by_beta = -2 * alpha * zeta(3, alpha) / total, -2 * beta * zeta(3, beta) / total
    determinant = mean_by_alpha * variance_by_beta - mean_by_beta * variance_by_alpha
    step_alpha = (error_mean * variance_by_beta - error_variance * mean_by_beta) / determinant
    step_beta = (error_variance * mean_by_alpha - error_mean * variance_by_alpha) / determinant
    return step_alpha, step_beta


class LogitTable:
    """A function of (α, β), looked up by the mean and variance of the logit: nanoseconds a task, not microseconds.

    Nearest entry, in steps of 1/16 of the mean (within ±12) and of the log variance (within −6 and 4); arguments
    beyond take the value at the edge. The mean of p, for one, is rounded by less than 0.01.

    Args:
        function: takes α and β of any equal shape, returns the values.
    """

    _PER_UNIT = 16
    _MEAN, _LEAST, _MOST = 12, -6, 4

    def __init__(self, function: Callable[[FloatArray, FloatArray], FloatArray]) -> None:
        mean = np.arange(-self._MEAN * self._PER_UNIT, self._MEAN * self._PER_UNIT + 1) / self._PER_UNIT
        log_variance = np.arange(self._LEAST * self._PER_UNIT, self._MOST * self._PER_UNIT + 1) / self._PER_UNIT
        self._values = function(*match_beta(*np.meshgrid(mean, np.exp(log_variance), indexing="ij")))

    def __call__(self, mean: FloatArray, variance: FloatArray) -> FloatArray:
        """The function's values, same shape as the arguments."""
        row = np.rint((np.clip(mean, -self._MEAN, self._MEAN) + self._MEAN) * self._PER_UNIT)
        log_variance = np.clip(np.log(variance), self._LEAST, self._MOST)
        column = np.rint((log_variance - self._LEAST) * self._PER_UNIT)
        return self._values[row.astype(np.intp), column.astype(np.intp)]
