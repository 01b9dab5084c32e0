"""How well a belief predicts success counts before it sees them."""

# Shapes: M forecasts, each of one task's success count in one step.

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.beliefs.densities import beta_binomial_log_pmf

Counts = npt.NDArray[np.int64]


def whole_counts(successes: FloatArray, counts: FloatArray, dispersion: FloatArray) -> tuple[Counts, Counts]:
    """Integer numbers of Bernoulli trials that hold as much information as some rewards, for a beta-binomial forecast.

    Rewards of 0 and 1 (φ = 1) are Bernoulli trials. Of others, n rewards with the dispersion φ are n/φ trials, rounded.

    Args:
        successes: (M,) sums of rewards in [0, 1].
        counts: (M,) number of rewards in each sum, positive.
        dispersion: (M,) φ.

    Returns:
        (M,) successes and (M,) trials.
    """
    trials = np.rint(counts / dispersion).astype(np.int64)
    return np.rint(successes / counts * trials).astype(np.int64), trials


def interval_coverage(
    successes: Counts, counts: Counts, alpha: FloatArray, beta: FloatArray, level: float = 0.9
) -> FloatArray:
    """How much of each count lies in the central interval of its beta-binomial forecast.

        |[F(s−1), F(s)] ∩ [(1 − level) / 2, (1 + level) / 2]| / P(s)

    Counts are discrete, so that an end of the interval falls within the probability of one count, which is covered in
    part. For a true belief the mean over forecasts is `level`; intervals of integer counts would cover more, and by
    different amounts.

    Args:
        successes: (M,) observed counts.
        counts: (M,) rollouts.
        alpha: (M,) α of the forecasts.
        beta: (M,) β of the forecasts.
        level: probability of the interval.

    Returns:
        (M,) in [0, 1].
    """
    outcomes = np.arange(counts.max() + 1)[None, :]
    possible = outcomes <= counts[:, None]
    logs = beta_binomial_log_pmf(np.minimum(outcomes, counts[:, None]), counts[:, None], alpha[:, None], beta[:, None])
    probabilities = np.where(possible, np.exp(logs), 0.0)
    observed = probabilities[np.arange(len(counts)), successes]
    below = np.where(outcomes < successes[:, None], probabilities, 0.0).sum(axis=1)
    low, high = (1 - level) / 2, (1 + level) / 2
    inside = np.clip(np.minimum(below + observed, high) - np.maximum(below, low), 0.0, None)
    impossible = observed < 1e-300
    share = inside / np.where(impossible, 1.0, observed)
    return np.clip(np.where(impossible, (below > low) & (below < high), share), 0.0, 1.0)


def spearman(x: FloatArray, y: FloatArray) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where one side is constant."""
    ranks = rankdata(x), rankdata(y)
    if len(x) < 2 or any(rank.min() == rank.max() for rank in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def belief_scores(
    mean: FloatArray,
    successes: Counts,
    counts: Counts,
    concentrations: tuple[FloatArray, FloatArray] | None,
) -> dict[str, float | None]:
    """Scores of M forecasts, pooled.

    Args:
        mean: (M,) predicted success probabilities.
        successes: (M,) observed successes.
        counts: (M,) rollouts.
        concentrations: (α, β), each (M,); without them, scores that need a distribution are None.

    Returns:
        `rmse` of the mean against the observed pass rate, which includes the latter's binomial noise; `spearman` of
        the two; `log_predictive`, the mean beta-binomial log probability in nats; and `coverage_90`.
    """
    rates = successes / counts
    scores: dict[str, float | None] = {
        "rmse": float(np.sqrt(np.mean((mean - rates) ** 2))),
        "log_predictive": None,
        "spearman": spearman(mean, rates),
        "coverage_90": None,
    }
    if concentrations is not None:
        scores["log_predictive"] = float(beta_binomial_log_pmf(successes, counts, *concentrations).mean())
        scores["coverage_90"] = float(interval_coverage(successes, counts, *concentrations).mean())
    return scores
