# Shapes: any.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bots_lightning.beliefs.densities import beta_moment, largest_density, log_density, probability_below

concentrations = st.floats(0.05, 500)
interior = st.floats(1e-3, 1 - 1e-3)


def array(value: float) -> np.ndarray:
    return np.array([value])


@given(st.floats(1e-6, 1 - 1e-6), concentrations, concentrations)
def test_log_density_is_that_of_scipy(x: float, alpha: float, beta: float) -> None:
    found = log_density(x, array(alpha), array(beta))[0]
    assert found == pytest.approx(stats.beta.logpdf(x, alpha, beta), rel=1e-9, abs=1e-9)


@given(st.floats(0, 1), concentrations, concentrations)
def test_probability_below_is_that_of_scipy(bound: float, alpha: float, beta: float) -> None:
    found = probability_below(bound, array(alpha), array(beta))[0]
    assert found == pytest.approx(stats.beta.cdf(bound, alpha, beta), rel=1e-9, abs=1e-12)


def test_log_density_at_the_ends_by_hand() -> None:
    """Beta(1, 3) has the density 3 (1 − x)²; Beta(1, 1) is 1; below 1 there is a pole, above 1 a zero."""
    assert log_density(0.0, array(1.0), array(3.0))[0] == pytest.approx(np.log(3))
    assert log_density(1.0, array(1.0), array(1.0))[0] == pytest.approx(0)
    assert log_density(0.0, array(0.5), array(3.0))[0] == np.inf
    assert log_density(1.0, array(0.5), array(0.5))[0] == np.inf
    assert log_density(1.0, array(2.0), array(3.0))[0] == -np.inf


@given(interior, interior, concentrations, concentrations)
def test_largest_density_agrees_with_a_search(one: float, other: float, alpha: float, beta: float) -> None:
    """In two rounds, the second of them around what the first has found."""
    low, high = sorted([one, other])
    found = largest_density(low, high, array(alpha), array(beta))[0]
    grid = np.linspace(low, high, 2001)
    near = grid[np.argmax(stats.beta.pdf(grid, alpha, beta))]
    spacing = (high - low) / 2000
    grid = np.linspace(max(near - spacing, low), min(near + spacing, high), 2001)
    assert found == pytest.approx(stats.beta.pdf(grid, alpha, beta).max(), rel=1e-6, abs=1e-290)


@pytest.mark.parametrize(
    ("low", "high", "alpha", "beta", "expected"),
    [
        (0.0, 1.0, 2.0, 2.0, 6 * 0.25),  # 6 x (1 − x), at the mode 1/2
        (0.6, 0.9, 2.0, 2.0, 6 * 0.6 * 0.4),
        (0.1, 0.3, 2.0, 2.0, 6 * 0.3 * 0.7),
        (0.2, 0.7, 1.0, 1.0, 1.0),
        (0.2, 0.7, 1.0, 3.0, 3 * 0.8**2),  # falls
        (0.2, 0.7, 3.0, 1.0, 3 * 0.7**2),  # rises
        (0.25, 0.5, 0.5, 0.5, 1 / (np.pi * np.sqrt(0.25 * 0.75))),  # the arcsine law is largest at the ends
        (0.0, 0.5, 0.5, 0.5, np.inf),
        (0.5, 1.0, 2.0, 0.5, np.inf),
    ],
)
def test_largest_density_by_hand(low: float, high: float, alpha: float, beta: float, expected: float) -> None:
    assert largest_density(low, high, array(alpha), array(beta))[0] == pytest.approx(expected)


def test_beta_moment_agrees_with_scipy_and_does_not_overflow() -> None:
    assert beta_moment(array(2.0), array(3.0), 4, 0)[0] == pytest.approx(stats.beta(2, 3).moment(4))
    assert beta_moment(array(2.0), array(3.0), 0, 4)[0] == pytest.approx(stats.beta(3, 2).moment(4))
    half = beta_moment(array(1e12), array(1e12), 128, 128)[0]  # p = 1/2
    assert half == pytest.approx(0.5**256, rel=1e-6)


def test_a_mixed_beta_moment_by_hand() -> None:
    """E[p (1−p)] of Beta(2, 3) is 2·3/(5·6); E[p² (1−p)] is 2·3·3/(5·6·7)."""
    assert beta_moment(array(2.0), array(3.0), 1, 1)[0] == pytest.approx(6 / 30)
    assert beta_moment(array(2.0), array(3.0), 2, 1)[0] == pytest.approx(18 / 210)
