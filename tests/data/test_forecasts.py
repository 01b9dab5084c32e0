"""The forecast of a step is what was believed before its evidence was observed."""

from __future__ import annotations

import numpy as np
import pytest
from numbered_tasks import datamodule, outcome

from bots_lightning.beliefs import BetaBelief, Evidence
from bots_lightning.selection import ThompsonSelector, UniformSelector


def test_the_forecast_is_what_was_believed_before_the_evidence() -> None:
    """Task 3, listed twice, comes before task 7 and as one row; Beta(1, 1), then λ = 0 adds the counts."""
    data = datamodule(ThompsonSelector(BetaBelief(forgetting=0.0)))
    assert data.forecasts == []
    rows = Evidence(np.array([7, 3, 3]), np.array([8.0, 1.0, 2.0]), np.array([8.0, 4.0, 4.0]))
    for alpha, beta in (([1, 1], [1, 1]), ([1 + 3, 1 + 8], [1 + 5, 1])):
        data.select()
        data.observe(rows)
        forecast = data.forecasts[-1]
        assert forecast.evidence.indices.tolist() == [3, 7]
        assert forecast.evidence.successes.tolist() == [3, 8]
        assert (forecast.alpha.tolist(), forecast.beta.tolist()) == (alpha, beta)
        assert forecast.dispersion.tolist() == [1, 1]


def test_the_forecast_of_partial_rewards_has_the_dispersion_before_the_evidence() -> None:
    """0.25 and 0.75: W = 1/8, F = 1/2, φ = (1 + 1/8)/(1 + 1/2 − 3/8/2) afterwards, 1 before."""
    data = datamodule(ThompsonSelector(BetaBelief(forgetting=0.0)))
    for dispersion in (1.0, (9 / 8) / (21 / 16)):
        data.select()
        data.observe(Evidence.from_rewards(np.array([2]), np.array([0.25, 0.75]), np.array([2])))
        assert data.forecasts[-1].dispersion[0] == pytest.approx(dispersion)


def test_there_is_no_forecast_without_a_belief_or_without_rollouts() -> None:
    data = datamodule(UniformSelector())
    data.observe(outcome(data.select()))
    assert data.forecasts == []
    data = datamodule()
    data.select()
    data.observe(Evidence(np.array([0]), np.zeros(1), np.zeros(1)))
    assert data.forecasts == []


def test_forecasts_are_those_of_one_iteration() -> None:
    """Further batches of an iteration, as of dynamic sampling, add theirs; the loader's next batch clears them."""
    data = datamodule()
    for batch in data.train_dataloader():
        data.observe(outcome(batch.indices))
        data.observe(outcome(data.select()))
        assert len(data.forecasts) == 2
