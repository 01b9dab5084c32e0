"""Beta distributions parametrized by the mean and variance of their logit, exactly and on a grid for large pools."""

# Shapes: any; both arguments of a function have the same shape.

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates, spline_filter
from scipy.special import digamma, zeta

from bots_lightning.beliefs.belief import CHUNK, FloatArray

Float32Array = npt.NDArray[np.float32]

LARGEST_MEAN = 30.0
# The grid: its range of means (±12) and log variances, and cells per unit of either.
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
    """(α, β) of the Beta whose logit has mean m and variance v: the inverse of `logit_moments`.

    Solved by damped Newton steps in (log α, log β). West, Harrison & Migon (1985) use α = (1 + e^m)/v and
    β = (1 + e^−m)/v, which is accurate for many counts and the starting point here. At v = 9 it is three times too
    small: an update that used it would inflate the variance of tasks of which little is known.

    Args:
        mean: (...) m; clipped to ±30.
        variance: (...) v, positive.
        iterations: the most Newton steps; it usually converges after 6.
    """
    mean = np.clip(mean, -LARGEST_MEAN, LARGEST_MEAN)
    least = np.sqrt(0.5 / variance)
    log_alpha = np.log(np.maximum((1 + np.exp(mean)) / variance, least))
    log_beta = np.log(np.maximum((1 + np.exp(-mean)) / variance, least))
    return _newton(mean, variance, log_alpha, log_beta, iterations)


def match_beta_from_grid(mean: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """`match_beta` in a third of the time: Newton starts from a cubic spline through the cells, one step is enough.

    Args:
        mean: (n,) m.
        variance: (n,) v, positive.

    Returns:
        α and β, each (n,).
    """
    places = np.stack([(mean + MEAN) * PER_UNIT, (np.log(variance) - LEAST) * PER_UNIT])
    log_alpha, log_beta = (map_coordinates(each, places, prefilter=False, mode="nearest") for each in _splines())
    return _newton(np.clip(mean, -LARGEST_MEAN, LARGEST_MEAN), variance, log_alpha, log_beta, iterations=30)


class LastMatch:
    """`match_beta_from_grid` that keeps its last result, since a step's tasks are matched twice."""

    def __init__(self) -> None:
        self._moments, self._found = (np.empty(0),) * 2, (np.empty(0),) * 2

    def __call__(self, mean: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(α, β) of some moments, each (n,); those of many tasks are not kept."""
        if len(mean) > CHUNK:
            return match_beta_from_grid(mean, variance)
        if not all(map(np.array_equal, self._moments, (mean, variance))):
            self._moments, self._found = (mean, variance), match_beta_from_grid(mean, variance)
        return self._found


def _newton(
    mean: FloatArray, variance: FloatArray, log_alpha: FloatArray, log_beta: FloatArray, iterations: int
) -> tuple[FloatArray, FloatArray]:
    """Damped Newton steps from a starting point to the root."""
    for _ in range(iterations):
        step_alpha, step_beta = _newton_step(np.exp(log_alpha), np.exp(log_beta), mean, variance)
        length = np.maximum(np.abs(step_alpha), np.abs(step_beta))
        damping = np.minimum(1, 1.5 / np.maximum(length, 1.0))
        log_alpha, log_beta = log_alpha - damping * step_alpha, log_beta - damping * step_beta
        if (length < 1e-7).all():  # convergence is quadratic: the next step would be below 1e-13
            break
    return np.exp(log_alpha), np.exp(log_beta)


def _newton_step(
    alpha: FloatArray, beta: FloatArray, mean: FloatArray, variance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The Newton step of (log α, log β) for the errors in m and in log v, to be subtracted; ψ₂(x) = −2ζ(3, x)."""
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
    """(α, β) of the cells of `logit_cells`, each (rows, columns): a row is a mean, a column a log variance."""
    mean = np.arange(-MEAN * PER_UNIT, MEAN * PER_UNIT + 1) / PER_UNIT
    log_variance = np.arange(LEAST * PER_UNIT, MOST * PER_UNIT + 1) / PER_UNIT
    alpha, beta = match_beta(*np.meshgrid(mean, np.exp(log_variance), indexing="ij"))
    return alpha, beta


@cache
def _splines() -> tuple[FloatArray, FloatArray]:
    """Coefficients of cubic splines through log α and log β of the grid; between cells they are right to 1e-7."""
    alpha, beta = (spline_filter(np.log(each), mode="nearest") for each in logit_grid())
    return alpha, beta


def logit_cells(mean: FloatArray | Float32Array, variance: FloatArray | Float32Array) -> npt.NDArray[np.int32]:
    """The nearest cells, in steps of 1/16 of the mean (within ±12) and of the log variance (from −6 to 4).

    Arguments beyond that range take the cell at the edge. Rounding to a cell changes the mean of p by less than 0.01.

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
    row += 0.5  # so that truncation rounds
    column = np.log(variance)
    np.clip(column, LEAST, MOST, out=column)
    column -= LEAST
    column *= PER_UNIT
    column += 0.5
    cells = row.astype(np.int32)
    cells *= (MOST - LEAST) * PER_UNIT + 1
    cells += column.astype(np.int32)
    return cells
