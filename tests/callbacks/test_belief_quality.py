"""The belief is scored on forecasts that it made before it saw what came."""

# Shapes: B tasks in the step.

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from step_logs import Logged, logging_trainer, module_at

from bots_lightning.beliefs import Evidence
from bots_lightning.data import Forecast
from callbacks import BeliefQuality


def forecast_of(
    successes: list[float], counts: list[float], alpha: list[float], beta: list[float], dispersion: float = 1.0
) -> Forecast:
    evidence = Evidence(np.arange(len(successes)), np.array(successes), np.array(counts))
    return Forecast(evidence, np.array(alpha), np.array(beta), np.full(len(successes), dispersion))


def step(callback: BeliefQuality, forecast: Forecast | None, logger: Logged | None = None) -> None:
    steps_of(callback, [] if forecast is None else [forecast], logger)


def steps_of(callback: BeliefQuality, forecasts: list[Forecast], logger: Logged | None = None) -> None:
    trainer = logging_trainer(logger, datamodule=SimpleNamespace(forecasts=forecasts))
    callback.on_train_batch_end(trainer, module_at(), {}, None, 0)


def test_two_steps_by_hand() -> None:
    """A uniform belief gives every count of 0…4 the probability 1/5; its mean is off by 0.5 and by 0.25."""
    callback, logger = BeliefQuality(), Logged()
    assert callback.means is None
    step(callback, forecast_of([4.0], [4.0], [1.0], [1.0]), logger)
    step(callback, forecast_of([1.0, 1.0], [4.0, 4.0], [1.0, 1.0], [1.0, 1.0]), logger)
    assert logger.calls[0][1] == pytest.approx(
        # The count 4 takes up [0.8, 1] of the forecast, of which [0.8, 0.95] lies in the central 90 %.
        {"belief/log_predictive": np.log(0.2), "belief/rmse": 0.5, "belief/coverage_90": 0.75}
    )
    assert logger.calls[1][1]["belief/rmse"] == pytest.approx(0.25)
    assert callback.means == pytest.approx(
        {
            "log_predictive": np.log(0.2),
            "rmse": np.sqrt((0.25 + 2 * 0.0625) / 3),
            "coverage_90": (0.75 + 2 * 1.0) / 3,
        }
    )


def test_a_true_belief_covers_nine_counts_of_ten_and_scores_its_entropy() -> None:
    rng, callback = np.random.default_rng(0), BeliefQuality()
    alpha, beta = rng.uniform(0.5, 9, 4000), rng.uniform(0.5, 9, 4000)
    successes = rng.binomial(8, rng.beta(alpha, beta)).astype(float)
    step(callback, forecast_of(successes.tolist(), [8.0] * 4000, alpha.tolist(), beta.tolist()))
    means = callback.means
    assert means is not None
    assert means["coverage_90"] == pytest.approx(0.9, abs=0.015)
    pmf = np.array([stats.betabinom.pmf(np.arange(9), 8, a, b) for a, b in zip(alpha, beta, strict=True)])
    assert means["log_predictive"] == pytest.approx((pmf * np.log(pmf)).sum(1).mean(), abs=0.03)


def test_rewards_that_vary_less_than_bernoulli_trials_count_as_more_of_them() -> None:
    """8 rewards of dispersion 1/4 are 32 Bernoulli trials: the mean of 6/8 is 24 of 32."""
    callback = BeliefQuality()
    step(callback, forecast_of([6.0], [8.0], [3.0], [2.0], dispersion=0.25))
    means = callback.means
    assert means is not None
    assert means["log_predictive"] == pytest.approx(stats.betabinom.logpmf(24, 32, 3, 2))
    assert means["rmse"] == pytest.approx(0.75 - 0.6)


def test_all_batches_of_an_iteration_count_by_their_tasks() -> None:
    callback, logger = BeliefQuality(), Logged()
    small, large = forecast_of([4.0], [4.0], [1.0], [1.0]), forecast_of([2.0] * 3, [4.0] * 3, [1.0] * 3, [1.0] * 3)
    steps_of(callback, [small, large], logger)
    assert logger.calls[0][1]["belief/rmse"] == pytest.approx(np.sqrt((0.25 + 3 * 0.0) / 4))
    assert callback.forecasts == 4


def test_a_selector_without_a_belief_logs_nothing() -> None:
    callback, logger = BeliefQuality(), Logged()
    step(callback, None, logger)
    assert logger.calls == []
    assert callback.means is None


def test_the_means_continue_after_a_resume(tmp_path: Path) -> None:
    callback, resumed, undisturbed = BeliefQuality(), BeliefQuality(), BeliefQuality()
    first, second = forecast_of([3.0], [8.0], [2.0], [2.0]), forecast_of([8.0], [8.0], [1.0], [3.0])
    step(callback, first)
    torch.save(callback.state_dict(), tmp_path / "callback.ckpt")
    resumed.load_state_dict(torch.load(tmp_path / "callback.ckpt", weights_only=True))
    step(resumed, second)
    for forecast in (first, second):
        step(undisturbed, forecast)
    assert resumed.means == undisturbed.means
