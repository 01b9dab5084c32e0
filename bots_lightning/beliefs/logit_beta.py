"""Beta distributions by the mean and variance of their logit: exact both ways, and on a grid for whole pools."""

# Shapes: any; both arguments of a function have the same.

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, zeta

from bots_lightning.beliefs.belief import FloatArray

Float32Array = npt.NDArray[np.float32]

_LARGEST_MEAN = 30.0
# The grid: its range in means and log variances, and steps per unit of either.
MEAN, LEAST, MOST, PER_UNIT = 12, -6, 4, 16


def logit_moments(alpha: FloatArray, beta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of logit p for p ~ Beta(α, β): ψ(α) − ψ(β) and ψ₁(α) + ψ₁(β).

    Args:
        alpha: (...) α, positive.
        beta: (...) β, positive.
    """
    both = np.stack(np.broadcast_arrays(alpha, beta))
    first, second = digamma(both), zeta(2, both)  # ψ₁(x) = ζ(2, x)
    return first[0] - first[1], second[0] + second[1]


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
    return _newton(mean, variance, log_alpha, log_beta, iterations)


def match_beta_from_grid(mean: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same, in half the time: Newton from the centre of the nearest cell, usually 3 steps.

    Args:
        mean: (n,) m.
        variance: (n,) v, positive.
    """
    alpha, beta = logit_grid()
    cells = logit_cells(mean, variance)
    mean = np.clip(mean, -_LARGEST_MEAN, _LARGEST_MEAN)
    return _newton(mean, variance, np.log(alpha.ravel()[cells]), np.log(beta.ravel()[cells]), iterations=30)


def _newton(
    mean: FloatArray, variance: FloatArray, log_alpha: FloatArray, log_beta: FloatArray, iterations: int
) -> tuple[FloatArray, FloatArray]:
    """Damped steps from a starting point to the root."""
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
    both = np.stack([alpha, beta])
    first, (trigamma_alpha, trigamma_beta), third = digamma(both), zeta(2, both), zeta(3, both)
    total = trigamma_alpha + trigamma_beta
    error_mean = first[0] - first[1] - mean
    error_variance = np.log(total / variance)
    mean_by_alpha, mean_by_beta = alpha * trigamma_alpha, -beta * trigamma_beta
    variance_by_alpha, variance_by_beta = -2 * alpha * third[0] / total, -2 * beta * third[1] / total
    determinant = mean_by_alpha * variance_by_beta - mean_by_beta * variance_by_alpha
    step_alpha = (error_mean * variance_by_beta - error_variance * mean_by_beta) / determinant
    step_beta = (error_variance * mean_by_alpha - error_mean * variance_by_alpha) / determinant
    return step_alpha, step_beta


@cache
def logit_grid() -> tuple[FloatArray, FloatArray]:
    """(α, β) of the cells of `logit_cells`, each (rows, columns): rows by the mean, columns by the variance."""
    mean = np.arange(-MEAN * PER_UNIT, MEAN * PER_UNIT + 1) / PER_UNIT
    log_variance = np.arange(LEAST * PER_UNIT, MOST * PER_UNIT + 1) / PER_UNIT
    alpha, beta = match_beta(*np.meshgrid(mean, np.exp(log_variance), indexing="ij"))
    return alpha, beta


def logit_cells(mean: FloatArray | Float32Array, variance: FloatArray | Float32Array) -> npt.NDArray[np.int32]:
    """The nearest cell, in steps of 1/16 of the mean (within ±12) and of the log variance (within −6 and 4).

    Arguments beyond take the cell at the edge. The mean of p, for one, is rounded by less than 0.01.

    Args:
        mean: (n,) of the logits.
        variance: (n,) of the logits, positive.

    Returns:
        (n,) positions in the flattened grid.
    """
    row = np.empty_like(mean)
    np.clip(mean, -MEAN, MEAN, out=row)  # faster than minimum and maximum
    row += MEAN
    row *= PER_UNIT
    row += 0.5  # truncation then rounds
    column = np.log(variance)
    np.clip(column, LEAST, MOST, out=column)
    column -= LEAST
    column *= PER_UNIT
    column += 0.5
    cells = row.astype(np.int32)
    cells *= (MOST - LEAST) * PER_UNIT + 1
    cells += column.astype(np.int32)
    return cells
