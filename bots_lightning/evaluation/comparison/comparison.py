"""Which method learns faster: a method's runs against the baseline's, paired by seed."""

# Shapes: S seeds, E evaluations, R resamples.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bots_lightning.evaluation.comparison.curves import Curves, best_so_far_ratio, time_to_baseline
from bots_lightning.evaluation.comparison.resampling import finite, finite_ends, interval, resamples, spread
from bots_lightning.evaluation.comparison.run_records import SELECTION_METRICS, RunRecord

BUDGETS = (25, 50, 75, 100)  # τ, per cent of the baseline's budget


def compare_to_baseline(pairs: Sequence[tuple[RunRecord, RunRecord]], interpolate: bool = False) -> dict[str, Any]:
    """Compares a method's runs with the baseline's of the same seeds.

    Args:
        pairs: a run of the method and one of the baseline, for each seed that both have.
        interpolate: between evaluations.

    Returns:
        the paired `seeds`; the differences of the final scores and of each of `SELECTION_METRICS`; `time_to_baseline`
        and `best_so_far`, each {axis: {τ: {"pooled": of the mean curves, "seeds": seed by seed}}}. No differences and
        no axes without a pair.
    """
    ours, theirs = [run for run, _ in pairs], [run for _, run in pairs]
    differences = [float(run.scores[-1] - other.scores[-1]) for run, other in pairs]
    faster: dict[str, Any] = {}
    better: dict[str, Any] = {}
    for axis in pairs[0][0].costs if pairs else ():
        method, baseline = _mean_seeds_and_resamples(ours, axis), _mean_seeds_and_resamples(theirs, axis)
        faster[axis] = {str(tau): _ttb(method, baseline, tau, len(pairs), interpolate) for tau in BUDGETS}
        better[axis] = {str(tau): _bsf(method, baseline, tau, len(pairs), interpolate) for tau in BUDGETS}
    return {
        "seeds": [run.seed for run in ours],
        "final_score_difference": spread(differences) | {"seeds": differences} if pairs else None,
        "selection_differences": {name: _difference(pairs, name) for name in SELECTION_METRICS} if pairs else {},
        "time_to_baseline": faster,
        "best_so_far": better,
    }


def _difference(pairs: Sequence[tuple[RunRecord, RunRecord]], name: str) -> dict[str, Any]:
    """By how much a metric of the summaries is higher; None where one of the runs lacks it."""
    both = [(run.summary.get(name), other.summary.get(name)) for run, other in pairs]
    differences = [None if ours is None or theirs is None else ours - theirs for ours, theirs in both]
    return spread(differences) | {"seeds": differences}


def _mean_seeds_and_resamples(runs: Sequence[RunRecord], axis: str) -> Curves:
    """The mean curve, the S curves of the seeds, and the R mean curves of resampled seeds; (1 + S + R, E)."""
    seeds = len(runs)
    weights = np.vstack([np.full(seeds, 1 / seeds), np.eye(seeds), resamples(seeds)[0]])
    return Curves(np.array([run.costs[axis] for run in runs]), np.array([run.scores for run in runs])).mixed(weights)


def _ttb(method: Curves, baseline: Curves, budget: int, seeds: int, interpolate: bool) -> dict[str, Any]:
    """TTB of the mean curve, and seed by seed; in the median, a ratio that was not reached counts as infinite."""
    ratios, bounds = time_to_baseline(method, baseline, budget, interpolate)
    single, single_bounds = ratios[1 : seeds + 1], bounds[1 : seeds + 1]
    with_target = ~np.isnan(single)
    median = np.median(single[with_target]) if with_target.any() else np.nan
    lowest = np.where(np.isinf(single), single_bounds, single)[with_target]
    probabilities = resamples(seeds)[1]
    return {
        "pooled": {
            **_value_or_bound(ratios[0], bounds[0]),
            "interval": finite_ends(interval(ratios[seeds + 1 :], probabilities)),
            "resamples_without_target": float(probabilities[np.isnan(ratios[seeds + 1 :])].sum()),
        },
        "seeds": {
            "values": [_value_or_bound(*pair) for pair in zip(single, single_bounds, strict=True)],
            "with_target": int(with_target.sum()),
            "reached": int(np.isfinite(single).sum()),
            "median": _value_or_bound(median, np.median(lowest) if len(lowest) else np.nan),
        },
    }


def _bsf(method: Curves, baseline: Curves, budget: int, seeds: int, interpolate: bool) -> dict[str, Any]:
    """BSF of the mean curve, and seed by seed."""
    ratios = best_so_far_ratio(method, baseline, budget, interpolate)
    within = finite_ends(interval(ratios[seeds + 1 :], resamples(seeds)[1]))
    values = [finite(ratio) for ratio in ratios[: seeds + 1]]
    return {"pooled": {"value": values[0], "interval": within}, "seeds": {"values": values[1:]}}


def _value_or_bound(value: float, bound: float) -> dict[str, float | None]:
    """A ratio as `value`, or its lower bound as `at_least` if it was never reached; neither without a target."""
    return {"value": finite(value), "at_least": finite(bound) if np.isinf(value) else None}
