# Shapes: M forecasts.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bots_lightning.evaluation.scores.belief_quality import (
    belief_scores,
    beta_binomial_log_pmf,
    interval_coverage,
    spearman,
)

concentration = st.floats(0.05, 200)


@given(st.integers(1, 20), concentration, concentration)
def test_log_probability_agrees_with_scipy(n: int, alpha: float, beta: float) -> None:
    outcomes, counts = np.arange(n + 1), np.full(n + 1, n)
    found = beta_binomial_log_pmf(outcomes, counts, np.full(n + 1, alpha), np.full(n + 1, beta))
    np.testing.assert_allclose(found, stats.betabinom.logpmf(outcomes, n, alpha, beta), rtol=1e-7, atol=1e-9)
    assert np.exp(found).sum() == pytest.approx(1)


@given(st.integers(1, 20), concentration, concentration, st.floats(0.5, 0.99))
def test_a_true_belief_covers_its_level_exactly(n: int, alpha: float, beta: float, level: float) -> None:
    """Σ_s P(s) · coverage(s) = level, whatever the belief and however few the rollouts."""
    outcomes, full = np.arange(n + 1), np.ones(n + 1)
    covered = interval_coverage(outcomes, np.full(n + 1, n), alpha * full, beta * full, level)
    assert ((covered >= 0) & (covered <= 1)).all()
    assert (stats.betabinom.pmf(outcomes, n, alpha, beta) * covered).sum() == pytest.approx(level, abs=1e-6)


def test_coverage_by_hand() -> None:
    """Beta(1, 1) and 8 rollouts: nine counts of probability 1/9; 0.05 of the first and of the last lies outside."""
    covered = interval_coverage(np.arange(9), np.full(9, 8), np.ones(9), np.ones(9))
    edge = (1 / 9 - 0.05) / (1 / 9)
    np.testing.assert_allclose(covered, [edge, 1, 1, 1, 1, 1, 1, 1, edge])


def test_coverage_with_different_numbers_of_rollouts() -> None:
    alone = [interval_coverage(*(np.array([x]) for x in row))[0] for row in ((1, 2, 3.0, 1.0), (0, 9, 2.0, 5.0))]
    together = interval_coverage(np.array([1, 0]), np.array([2, 9]), np.array([3.0, 2.0]), np.array([1.0, 5.0]))
    np.testing.assert_allclose(together, alone)


def test_a_sure_and_wrong_belief_covers_nothing() -> None:
    sure, unsure = np.array([1e6]), np.array([1.0])
    assert interval_coverage(np.array([0]), np.array([8]), sure, unsure).tolist() == [0]
    assert interval_coverage(np.array([0]), np.array([400]), 1e9 * unsure, 1e-3 * unsure).tolist() == [0]


def test_a_sample_from_the_belief_is_covered_and_an_overconfident_one_is_not() -> None:
    rng = np.random.default_rng(0)
    alpha, beta = rng.uniform(0.3, 8, (2, 20_000))
    counts = rng.integers(2, 17, 20_000)
    successes = rng.binomial(counts, rng.beta(alpha, beta))
    mean = alpha / (alpha + beta)
    honest = belief_scores(mean, successes, counts, (alpha, beta))
    boastful = belief_scores(mean, successes, counts, (30 * alpha, 30 * beta))
    assert honest["coverage_90"] == pytest.approx(0.9, abs=0.01)
    assert boastful["coverage_90"] is not None
    assert boastful["coverage_90"] < 0.8
    assert honest["log_predictive"] is not None
    assert boastful["log_predictive"] is not None
    assert honest["log_predictive"] > boastful["log_predictive"] + 0.1
    assert honest["rmse"] == boastful["rmse"]


def test_scores_by_hand() -> None:
    """Errors 0.5 − 0.25 and 0.5 − 1; a flat belief gives each of n + 1 counts the same probability."""
    scores = belief_scores(np.full(2, 0.5), np.array([2, 3]), np.array([8, 3]), (np.ones(2), np.ones(2)))
    assert scores["rmse"] == pytest.approx(np.sqrt((0.25**2 + 0.5**2) / 2))
    assert scores["log_predictive"] == pytest.approx((np.log(1 / 9) + np.log(1 / 4)) / 2)
    assert scores["spearman"] is None  # a constant ranks nothing


def test_a_belief_without_a_distribution_has_no_scores_that_need_one() -> None:
    scores = belief_scores(np.array([0.2, 0.8]), np.array([1, 2]), np.array([4, 4]), None)
    assert (scores["log_predictive"], scores["coverage_90"]) == (None, None)
    assert scores["rmse"] is not None
    assert scores["spearman"] == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_spearman_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    found = spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(x, y).statistic)
