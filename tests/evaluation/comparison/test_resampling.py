"""The bootstrap against the enumeration of all draws, and the normal approximation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bots_lightning.evaluation.comparison.resampling import interval, resamples, spread


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_the_interval_is_that_of_all_draws(seeds: int) -> None:
    """Against every one of the S^S ordered draws, and numpy's quantile of them."""
    values = np.random.default_rng(seeds).normal(size=seeds)
    means = [np.mean(draw) for draw in itertools.product(values, repeat=seeds)]
    weights, probabilities = resamples(seeds)
    assert len(weights) == math.comb(2 * seeds - 1, seeds)
    assert probabilities.sum() == pytest.approx(1)
    expected = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert interval(weights @ values, probabilities) == pytest.approx(tuple(expected))


def test_many_seeds_are_resampled_at_random_and_repeatably() -> None:
    values = np.random.default_rng(1).normal(size=30)
    resamples.cache_clear()
    weights, probabilities = resamples(30)
    resamples.cache_clear()
    assert np.array_equal(weights, resamples(30)[0])
    assert weights.shape == (10_000, 30)
    low, high = interval(weights @ values, probabilities)  # type: ignore[misc]
    half = 1.96 * values.std() / np.sqrt(30)  # the normal approximation of the same
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_an_interval_may_end_in_infinity_and_leaves_nan_out() -> None:
    even = np.full(4, 0.25)
    assert interval(np.array([0.5, np.inf, 0.7, 0.6]), even) == (0.5, math.inf)
    assert interval(np.array([0.5, np.nan, 0.7, 0.6]), even) == (0.5, 0.7)
    assert interval(np.full(4, np.nan), even) is None
    assert interval(np.array([0.5]), np.ones(1)) is None


def test_spread_by_hand() -> None:
    assert spread([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(math.sqrt(2)), "interval": [1.0, 3.0]}
    assert spread([1.0]) == {"mean": 1.0, "std": None, "interval": None}
    assert spread([1.0, None]) == {"mean": None, "std": None, "interval": None}
