"""Uncertainty over few seeds: the bootstrap, exhaustive where that is possible."""

# Shapes: S seeds, R resamples.

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from bots_lightning.evaluation.comparison.run_records import FloatArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
SLACK = 1e-9  # of cumulative probabilities, for rounding
Interval = tuple[float, float]


@cache
def resamples(seeds: int) -> tuple[FloatArray, FloatArray]:
    """Ways to draw S of S seeds with replacement: all of them up to 8 seeds, else `RESAMPLES` random ones.

    Args:
        seeds: S.

    Returns:
        (R, S) the share of each seed, and (R,) the probability of each way.
    """
    if math.comb(2 * seeds - 1, seeds) > RESAMPLES:
        counts = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
        return counts / seeds, np.full(RESAMPLES, 1 / RESAMPLES)
    ways = combinations_with_replacement(range(seeds), seeds)
    counts = np.array([np.bincount(way, minlength=seeds) for way in ways])
    orders = [math.factorial(seeds) / math.prod(map(math.factorial, row)) for row in counts.tolist()]
    return counts / seeds, np.array(orders) / seeds**seeds


def interval(values: FloatArray, probabilities: FloatArray) -> Interval | None:
    """The central 95 % of resampled values.

    The percentile bootstrap (Efron, 1979); a quantile is the smallest value whose cumulative probability reaches it.
    It is too narrow for few seeds: with two or three it is the range of what single seeds give.

    Args:
        values: (R,), may be infinite; NaN is left out.
        probabilities: (R,) of each resample.

    Returns:
        both ends; None if there is only one value, or none but NaN.
    """
    defined = ~np.isnan(values)
    if len(values) < 2 or not defined.any():
        return None
    values, probabilities = values[defined], probabilities[defined]
    order = np.argsort(values)
    cumulative = np.cumsum(probabilities[order]) / probabilities.sum()
    low, high = np.searchsorted(cumulative, [(1 - CONFIDENCE) / 2 - SLACK, (1 + CONFIDENCE) / 2 - SLACK])
    return float(values[order[low]]), float(values[order[high]])


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, sample standard deviation, and the interval of the mean.

    Args:
        values: of S seeds.

    Returns:
        {"mean", "std", "interval"}: all None where a value is missing, the last two None where there is one seed.
    """
    numbers = np.array([value for value in values if value is not None])
    if len(numbers) < len(values):
        return {"mean": None, "std": None, "interval": None}
    weights, probabilities = resamples(len(numbers))
    return {
        "mean": float(numbers.mean()),
        "std": float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        "interval": finite_ends(interval(weights @ numbers, probabilities)),
    }


def finite_ends(bounds: Interval | None) -> list[float | None] | None:
    """An interval for JSON: null for an end that is infinite."""
    return None if bounds is None else [finite(bound) for bound in bounds]


def finite(value: float) -> float | None:
    """A number for JSON: null where it is infinite or NaN."""
    return float(value) if np.isfinite(value) else None
