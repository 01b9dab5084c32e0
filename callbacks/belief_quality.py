"""Tracks how well the belief predicted what came."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning import LightningModule, Trainer

from bots_lightning.beliefs.densities import beta_binomial_log_pmf
from bots_lightning.data import Forecast
from bots_lightning.evaluation import log_step_metrics
from bots_lightning.evaluation.scores.belief_quality import interval_coverage, whole_counts
from callbacks.selection_callback import SelectionCallback, counted

SCORES = ("log_predictive", "squared_error", "coverage_90")


class BeliefQuality(SelectionCallback):
    """Logs how well the belief forecast each batch before it saw its rewards, and keeps the means over the run.

    Logs, per step: `belief/log_predictive`, the mean beta-binomial log probability of the success counts in nats;
    `belief/rmse` of the predicted pass rates against the counted ones, whose own binomial noise it contains; and
    `belief/coverage_90`, the share of counts in the central 90 % interval of their forecast. The tasks are those that
    the selector chose, so compare selectors by `bots-lightning replay`, which scores the whole pool too. Nothing is
    logged for a selector without a belief.
    """

    def __init__(self) -> None:
        self.totals = dict.fromkeys(SCORES, 0.0)
        self.forecasts = 0

    @property
    def means(self) -> dict[str, float] | None:
        """`log_predictive`, `rmse` and `coverage_90` over all forecasts of the run; None before the first."""
        if not self.forecasts:
            return None
        mean = {name: total / self.forecasts for name, total in self.totals.items()}
        mean["rmse"] = mean.pop("squared_error") ** 0.5
        return mean

    @counted
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the forecasts of one step, of all its batches under dynamic sampling."""
        forecasts: list[Forecast] = trainer.datamodule.forecasts  # type: ignore[attr-defined]
        if not forecasts:
            return
        sizes = [len(forecast.evidence) for forecast in forecasts]
        rounds = [self._scores(forecast) for forecast in forecasts]
        scores = {name: float(np.average([each[name] for each in rounds], weights=sizes)) for name in SCORES}
        for name in SCORES:
            self.totals[name] += scores[name] * sum(sizes)
        self.forecasts += sum(sizes)
        scores["rmse"] = scores.pop("squared_error") ** 0.5
        progress: Any = pl_module.progress
        log_step_metrics(trainer, {f"belief/{name}": value for name, value in scores.items()}, progress.iterations)

    @staticmethod
    def _scores(forecast: Forecast) -> dict[str, float]:
        """Means over the tasks of one step."""
        evidence, alpha, beta = forecast.evidence, forecast.alpha, forecast.beta
        counts = whole_counts(evidence.successes, evidence.counts, forecast.dispersion)
        error = alpha / (alpha + beta) - evidence.successes / evidence.counts
        return {
            "log_predictive": float(beta_binomial_log_pmf(*counts, alpha, beta).mean()),
            "squared_error": float((error**2).mean()),
            "coverage_90": float(interval_coverage(*counts, alpha, beta).mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return self.totals | {"forecasts": self.forecasts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the means."""
        self.totals = {name: state_dict[name] for name in SCORES}
        self.forecasts = state_dict["forecasts"]
