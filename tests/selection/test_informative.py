# Shapes: any; G rollouts per task.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import poch

from bots_lightning.selection.informative import mixed_at, mixed_probability

concentrations = st.floats(0.05, 60)


def test_mixed_at_by_hand() -> None:
    """G = 2: 2p (1−p); G = 3: 3p (1−p)."""
    rates = np.array([0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(mixed_at(rates, 2), [0, 3 / 8, 1 / 2, 0])
    np.testing.assert_allclose(mixed_at(rates, 3), [0, 9 / 16, 3 / 4, 0])


@given(concentrations, concentrations, st.integers(2, 20))
def test_mixed_probability_is_the_closed_form(alpha: float, beta: float, g: int) -> None:
    mean, _ = mixed_probability(np.array([alpha]), np.array([beta]), g)
    expected = 1 - poch(alpha, g) / poch(alpha + beta, g) - poch(beta, g) / poch(alpha + beta, g)
    assert mean[0] == pytest.approx(expected, abs=1e-12)


def test_mixed_probability_by_hand() -> None:
    """Beta(1, 1), G = 2: U = 2p(1−p), E[U] = 2/2 − 2/3 = 1/3, E[U²] = 4·B(3, 3) = 4/30."""
    mean, deviation = mixed_probability(np.array([1.0]), np.array([1.0]), 2)
    assert mean[0] == pytest.approx(1 / 3)
    assert deviation[0] == pytest.approx(np.sqrt(4 / 30 - 1 / 9))


@pytest.mark.parametrize(("alpha", "beta", "g"), [(0.2, 0.3, 8), (1.0, 1.0, 8), (2.0, 9.0, 16), (30.0, 3.0, 4)])
def test_mixed_probability_agrees_with_simulated_groups(alpha: float, beta: float, g: int) -> None:
    rng = np.random.default_rng(7)
    p = rng.beta(alpha, beta, 100_000)
    successes = rng.binomial(g, p)
    mean, deviation = mixed_probability(np.array([alpha]), np.array([beta]), g)
    assert ((successes > 0) & (successes < g)).mean() == pytest.approx(mean[0], abs=0.007)
    assert (1 - p**g - (1 - p) ** g).std() == pytest.approx(deviation[0], abs=0.004)


@given(concentrations, concentrations, st.integers(2, 20), st.floats(0.01, 0.99))
def test_with_rewards_in_between_it_is_the_closed_form_of_the_dirichlet(
    alpha: float, beta: float, g: int, extreme: float
) -> None:
    mean, _ = mixed_probability(np.array([alpha]), np.array([beta]), g, extreme)
    total = alpha + beta
    expected = 1 - poch(extreme * alpha, g) / poch(total, g) - poch(extreme * beta, g) / poch(total, g)
    assert mean[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("extreme", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("alpha", "beta", "g"), [(0.4, 0.3, 2), (1.0, 1.0, 8), (2.0, 9.0, 4), (30.0, 3.0, 16)])
def test_with_rewards_in_between_it_agrees_with_simulated_groups(
    alpha: float, beta: float, g: int, extreme: float
) -> None:
    """Shares of minimum, interior and maximum from a Dirichlet, then G rewards from those shares."""
    rng = np.random.default_rng(3)
    shares = rng.dirichlet([extreme * beta, (1 - extreme) * (alpha + beta), extreme * alpha], 100_000)
    counts = rng.multinomial(g, shares)
    mean, deviation = mixed_probability(np.array([alpha]), np.array([beta]), g, extreme)
    assert ((counts[:, 0] < g) & (counts[:, 2] < g)).mean() == pytest.approx(mean[0], abs=0.007)
    assert (1 - shares[:, 0] ** g - shares[:, 2] ** g).std() == pytest.approx(deviation[0], abs=0.004)


@given(concentrations, concentrations, st.integers(2, 20))
def test_binary_rewards_are_the_limit(alpha: float, beta: float, g: int) -> None:
    pair = np.array([alpha]), np.array([beta])
    binary, limit = mixed_probability(*pair, g), mixed_probability(*pair, g, 1 - 1e-12)
    assert limit[0][0] == pytest.approx(binary[0][0], abs=1e-9)
    assert limit[1][0] == pytest.approx(binary[1][0], abs=1e-5)
    assert mixed_probability(*pair, g, 1.0)[0][0] == binary[0][0]


@given(concentrations, concentrations, st.floats(0, 1), st.floats(0, 1))
def test_the_fewer_rewards_at_the_ends_the_likelier_they_differ(
    alpha: float, beta: float, one: float, other: float
) -> None:
    less, more = (mixed_probability(np.array([alpha]), np.array([beta]), 8, e)[0][0] for e in sorted([one, other]))
    assert 0 <= more <= less + 1e-12 <= 1 + 2e-12
