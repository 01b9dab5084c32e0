"""The regression that predicts tasks before their first visit, by hand."""

# Shapes: B tasks, one regressor of the logit and one of its variance, both 1.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.beliefs.design import design_of
from bots_lightning.beliefs.first_visits import FirstVisitRegression

ONES = np.ones((2, 1))


def new_regression() -> FirstVisitRegression:
    """Without any columns: prior weight 0 of precision 1/4, prior log variance log 6 of precision 1."""
    return FirstVisitRegression(design_of(TaskFeatures(2), [], 8.0))


def test_the_prior_predicts_the_constant() -> None:
    mean, variance = new_regression().predict(ONES, ONES)
    np.testing.assert_array_equal(mean, [0, 0])
    np.testing.assert_allclose(variance, [6, 6], rtol=1e-15)


def test_a_step_by_hand() -> None:
    """Precisions: 1/4 + 1/2 + 1/2 of w, 1 + 2·(6/2)²/2 of u; the gradients v (score² − information)/2 are ∓3/2."""
    regression = new_regression()
    score, information = np.array([0.0, 1.0]), np.array([0.5, 0.5])
    regression.observe(
        ONES, ONES, variance=np.full(2, 6.0), score=score, unexplained=np.array([0.5, 2.0]), information=information
    )
    np.testing.assert_allclose(regression.weight_precision, [[1.25]], rtol=1e-15)
    np.testing.assert_allclose(regression.weights, [2.5 / 1.25], rtol=1e-15)
    np.testing.assert_allclose(regression.spread_precision, [[1 + 2 * 3**2 / 2]], rtol=1e-15)
    np.testing.assert_allclose(regression.spread, [np.log(6)], rtol=1e-15)


def test_gradient_and_step_of_the_variance_are_clipped() -> None:
    """A score of 100 has the gradient 2, not 30,000; the step of 2/(1 + 0) is then clipped to 1/2."""
    regression = new_regression()
    score, information = np.array([100.0]), np.array([1e-9])
    one = np.ones((1, 1))
    regression.observe(
        one, one, variance=np.array([6.0]), score=score, unexplained=np.zeros(1), information=information
    )
    np.testing.assert_allclose(regression.spread, [np.log(6) + 0.5], rtol=1e-12)
