from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, polygamma

from bots_lightning.beliefs.logit_beta import (
    logit_cells,
    logit_grid,
    logit_moments,
    match_beta,
    match_beta_from_grid,
)


def test_moments_of_the_uniform_are_those_of_the_logistic() -> None:
    mean, variance = logit_moments(np.array([1.0]), np.array([1.0]))
    assert mean[0] == 0
    assert variance[0] == pytest.approx(np.pi**2 / 3)


def test_moments_of_whole_parameters_are_harmonic_sums() -> None:
    """ψ(4) − ψ(2) = 1/2 + 1/3; ψ₁(n) = π²/6 − Σ_{k<n} 1/k²."""
    mean, variance = logit_moments(np.array([4.0]), np.array([2.0]))
    assert mean[0] == pytest.approx(1 / 2 + 1 / 3)
    assert variance[0] == pytest.approx(np.pi**2 / 3 - (1 + 1 / 4 + 1 / 9) - 1)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (1.0, 9.0), (40.0, 25.0)])
def test_moments_agree_with_draws(alpha: float, beta: float) -> None:
    draws = logit(np.random.default_rng(3).beta(alpha, beta, 200_000))
    mean, variance = logit_moments(np.array(alpha), np.array(beta))
    assert draws.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / len(draws)))
    assert draws.var() == pytest.approx(variance, rel=0.03)


@given(st.floats(-30, 30), st.floats(np.log(1e-3), np.log(300)))
def test_the_matched_beta_has_the_moments_asked_for(mean: float, log_variance: float) -> None:
    variance = np.exp(log_variance)
    alpha, beta = match_beta(np.array([mean]), np.array([variance]))
    assert polygamma(0, alpha)[0] - polygamma(0, beta)[0] == pytest.approx(mean, rel=1e-7, abs=1e-7)
    assert polygamma(1, alpha)[0] + polygamma(1, beta)[0] == pytest.approx(variance, rel=1e-7)


@given(st.floats(np.log(0.1), np.log(1e4)), st.floats(np.log(0.1), np.log(1e4)))
def test_matching_inverts_the_moments(log_alpha: float, log_beta: float) -> None:
    alpha, beta = np.array([np.exp(log_alpha)]), np.array([np.exp(log_beta)])
    matched = match_beta(*logit_moments(alpha, beta))
    np.testing.assert_allclose(matched, (alpha, beta), rtol=1e-5)


def test_many_counts_are_the_approximation_of_west_harrison_and_migon() -> None:
    mean, variance = 0.7, 1e-4
    alpha, beta = match_beta(np.array([mean]), np.array([variance]))
    np.testing.assert_allclose(alpha, (1 + np.exp(mean)) / variance, rtol=1e-3)
    np.testing.assert_allclose(beta, (1 + np.exp(-mean)) / variance, rtol=1e-3)


def test_few_counts_are_not() -> None:
    """At v = 9 the approximation has three times the logit variance it was asked for."""
    approximate = np.array([2 / 9])
    assert logit_moments(approximate, approximate)[1][0] > 3 * 9
    assert logit_moments(*match_beta(np.array([0.0]), np.array([9.0])))[1][0] == pytest.approx(9)


def test_a_mean_beyond_thirty_counts_as_thirty() -> None:
    np.testing.assert_array_equal(
        match_beta(np.array([-1e6, 1e6]), np.array([2.0, 2.0])), match_beta(np.array([-30.0, 30.0]), np.array([2, 2.0]))
    )


def test_the_grid_is_the_function_within_its_steps() -> None:
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(0, 4, 3000).clip(-12, 12), np.exp(rng.uniform(-6, 4, 3000))
    alpha, beta = match_beta(mean, variance)
    grid_alpha, grid_beta = logit_grid()
    means = (grid_alpha / (grid_alpha + grid_beta)).ravel()
    np.testing.assert_allclose(means[logit_cells(mean, variance)], alpha / (alpha + beta), rtol=0, atol=0.01)
    # Where a logit is known well, the mean of p is near σ of it.
    assert means[logit_cells(np.array([1.5]), np.array([3e-3]))][0] == pytest.approx(expit(1.5), abs=1e-3)


def test_cells_in_single_precision_are_those_in_double_but_for_rounding_at_their_borders() -> None:
    rng = np.random.default_rng(1)
    mean, variance = rng.normal(0, 4, 20_000), np.exp(rng.uniform(-7, 5, 20_000))
    double, single = logit_cells(mean, variance), logit_cells(mean.astype(np.float32), variance.astype(np.float32))
    assert (double != single).mean() < 1e-3


def test_the_grid_holds_its_edge_beyond_its_range() -> None:
    inside = logit_cells(np.array([12.0, -12.0, 0.0, 0.0]), np.exp([0.0, 0.0, 4.0, -6.0]))
    beyond = logit_cells(np.array([99.0, -99.0, 0.0, 0.0]), np.exp([0.0, 0.0, 9.0, -9.0]))
    np.testing.assert_array_equal(beyond, inside)


@given(st.floats(-40, 40), st.floats(1e-3, 60))
def test_both_starting_points_lead_to_the_same_beta(mean: float, variance: float) -> None:
    """Also outside of the grid, where its edge is the starting point."""
    m, v = np.array([mean]), np.array([variance])
    np.testing.assert_allclose(match_beta_from_grid(m, v), match_beta(m, v), rtol=1e-7)
