"""The frontier of a record: what a selector could reach with exact knowledge instead of a belief."""

# Shapes: N tasks, E recorded epochs.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.evaluation.replay.replay import ReplaySettings
from bots_lightning.evaluation.replay.trajectories import Trajectories
from bots_lightning.evaluation.scores.effective_tasks import effective_share
from bots_lightning.selection.informative import mixed_at

# From only the tasks of highest utility to all tasks equally.
TEMPERATURES = np.geomspace(0.03, 30, 40)

Curve = dict[str, list[float]]


def frontiers(record: Trajectories, settings: ReplaySettings, bandwidth: float = 2.5) -> dict[str, Curve]:
    """Effective task ratio against effective tasks under two kinds of knowledge, a point for each temperature.

    In every epoch, tasks are selected in proportion to exp(U/τ), which is the most even choice for its ratio. With
    knowledge of later epochs a selector could do better: it would select tasks while they are mixed, and others later.

    Args:
        record: of a run.
        settings: which epochs are replayed.
        bandwidth: of `pass_rates_elsewhere`, in epochs.

    Returns:
        `counts known`: U is whether the group is mixed; `pass rates known`: U is the probability of that at the pass
        rate of the other epochs. Each has `effective_tasks` and `effective_task_ratio`, of equal length.
    """
    epochs = list(settings.epochs(record))
    rollouts = record.rollouts[:, None]
    mixed = ((record.successes > 0) & (record.successes < rollouts)).astype(np.float64)
    known = {"counts known": mixed, "pass rates known": mixed_at(pass_rates_elsewhere(record, bandwidth), rollouts)}
    return {name: _curve(utility[:, epochs], mixed[:, epochs]) for name, utility in known.items()}


def pass_rates_elsewhere(record: Trajectories, bandwidth: float) -> FloatArray:
    """(N, E) each task's pass rate around an epoch, estimated from all other epochs, so that none predicts itself.

    A mean of the counts with Gaussian weights of the distance in epochs, and a prior of half a rollout at 1/2.

    Args:
        record: of a run.
        bandwidth: standard deviation of the weights, in epochs.
    """
    epochs = np.arange(record.num_epochs)
    weights = np.exp(-(np.subtract.outer(epochs, epochs) ** 2) / (2 * bandwidth**2))
    np.fill_diagonal(weights, 0.0)
    prior = 0.25
    return (record.successes @ weights + prior) / (record.rollouts[:, None] * weights.sum(axis=0) + 2 * prior)


def _curve(utility: FloatArray, mixed: FloatArray) -> Curve:
    """The curve of shares ∝ exp(U/τ) within each epoch."""
    tasks, ratios = [], []
    for temperature in TEMPERATURES:
        shares = np.exp((utility - utility.max(axis=0)) / temperature)
        shares /= shares.sum(axis=0)
        tasks.append(effective_share(shares.mean(axis=1)))
        ratios.append(float((shares * mixed).sum(axis=0).mean()))
    return {"effective_tasks": tasks, "effective_task_ratio": ratios}
