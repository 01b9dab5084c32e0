"""Score and information of a logit, from its moments before and after evidence."""

# Shapes: B tasks in the step.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.belief import FloatArray

Moments = tuple[FloatArray, FloatArray]  # mean and variance of a logit


def score_and_information(prior: Moments, posterior: Moments) -> Moments:
    """Gradient and negative curvature of the log predictive f of the evidence in the prior mean of a logit.

        d log f/dm = (m′ − m)/v      −d² log f/dm² = (v − v′)/v²      (Tweedie's formula)

    Exact for a Gaussian prior. They replace the empirical logit log((s+½)/(f+½)) and its variance, which are biased
    where all or no rollouts succeed. The curvature is kept within (0, 1/v].

    Args:
        prior: (B,) mean m and (B,) variance v of each logit.
        posterior: (B,) m′ and (B,) v′.

    Returns:
        Score and information, each (B,).
    """
    (mean, variance), (new_mean, new_variance) = prior, posterior
    information = np.clip((variance - new_variance) / variance**2, 1e-6, 1 / variance)
    return (new_mean - mean) / variance, information
