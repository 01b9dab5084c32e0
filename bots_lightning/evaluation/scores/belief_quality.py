"""How well a belief foretold success counts that it had not seen."""

# Shapes: M forecasts, each of one task's success count in one step.

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.beliefs.densities import beta_binomial_log_pmf

Counts = npt.NDArray[np.int64]


def whole_counts(successes: FloatArray, counts: FloatArray, dispersion: FloatArray) -> tuple[Counts, Counts]:
    """Whole numbers of coin flips that say as much as some rewards, so that a beta-binomial forecasts them.

    Rewards of 0 and 1 (φ = 1) are such already. Of others, n rewards with the dispersion φ are n/φ coin flips, rounded.

    Args:
        successes: (M,) sums of rewards in [0, 1].
        counts: (M,) rewards behind each, positive.
        dispersion: (M,) φ.

    Returns:
        (M,) successes and (M,) counts.
    """
    flips = np.rint(counts / dispersion).astype(np.int64)
    return np.rint(successes / counts * flips).astype(np.int64), flips


def interval_coverage(
    successes: Counts, counts: Counts, alpha: FloatArray, beta: FloatArray, level: float = 0.9
) -> FloatArray:
    """Whether each count lies in the central interval of its beta-binomial forecast: (M,) in [0, 1].

    A count is discrete, so that the quantiles of its forecast fall within one count's probability. That count is in
    the interval by the share of its probability that is: the mean over the forecasts of a true belief is `level`,
    where an interval of whole counts would cover more, and unequally so.

        |[F(s−1), F(s)] ∩ [(1 − level) / 2, (1 + level) / 2]| / P(s)

    Args:
        successes: (M,) observed counts.
        counts: (M,) rollouts.
        alpha: (M,) α of the forecasts.
        beta: (M,) β of the forecasts.
        level: probability of the interval.
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
    """Rank correlation, ties at their mean rank; none where one side is constant."""
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
    """The scores of M forecasts, pooled.

    Args:
        mean: (M,) predicted success probabilities.
        successes: (M,) what was then observed.
        counts: (M,) in how many rollouts.
        concentrations: (α, β), each (M,); none leaves the scores that need a distribution at none.

    Returns:
        `rmse` of the mean against the observed pass rate (whose own binomial noise it contains), `spearman` of the
        two, `log_predictive`, the mean beta-binomial log probability in nats, and `coverage_90`.
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
