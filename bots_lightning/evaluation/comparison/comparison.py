"""Which method learns faster: measures on the learning curves of paired seeds, and what the seeds leave open."""

# Shapes: S seeds, E evaluations, R curves or resamples.

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np

from bots_lightning.evaluation.comparison.run_records import FloatArray, RunRecord

BUDGETS = (25, 50, 75, 100)  # τ, per cent of the baseline's budget
RESAMPLES = 10_000
CONFIDENCE = 0.95
SLACK = 1e-9  # of costs and scores, for the rounding of their means
Interval = tuple[float, float]


class Curves(NamedTuple):
    """Learning curves: `costs` (R, E), ascending, and `scores` (R, E)."""

    costs: FloatArray
    scores: FloatArray

    def mixed(self, weights: FloatArray) -> Curves:
        """Weighted means of the curves, (R', E); `weights` is (R', R)."""
        return Curves(weights @ self.costs, weights @ self.scores)


def best_so_far(curves: Curves, budgets: FloatArray, interpolate: bool = False) -> FloatArray:
    """The best score at a cost within the budget.

    Args:
        curves: R curves.
        budgets: (R,).
        interpolate: join evaluations by straight lines, and count the point at the budget too.

    Returns:
        (R,), NaN where there is no evaluation within the budget.
    """
    within = curves.costs <= budgets[:, None] * (1 + SLACK)
    best = np.where(within, curves.scores, -np.inf).max(axis=1)
    if interpolate:
        rows, left = np.arange(len(best)), within.sum(axis=1) - 1
        between = (left >= 0) & (left < within.shape[1] - 1)
        rows, left = rows[between], left[between]
        (c0, c1), (s0, s1) = ((values[rows, left], values[rows, left + 1]) for values in curves)
        best[between] = np.maximum(best[between], s0 + (s1 - s0) * np.clip((budgets[rows] - c0) / (c1 - c0), 0, 1))
    return np.where(np.isfinite(best), best, np.nan)


def first_cost(curves: Curves, targets: FloatArray, interpolate: bool = False) -> FloatArray:
    """The cost at the first evaluation that reaches a target.

    Args:
        curves: R curves.
        targets: (R,).
        interpolate: where the straight line between evaluations crosses the target instead.

    Returns:
        (R,), infinite where no evaluation reaches it.
    """
    reached = curves.scores >= targets[:, None] - SLACK
    rows, first = np.arange(len(targets)), reached.argmax(axis=1)
    costs = np.where(reached.any(axis=1), curves.costs[rows, first], np.inf)
    if interpolate:
        crossing = np.isfinite(costs) & (first > 0)
        rows, right = rows[crossing], first[crossing]
        (c0, c1), (s0, s1) = ((values[rows, right - 1], values[rows, right]) for values in curves)
        costs[crossing] = c0 + (c1 - c0) * np.clip((targets[rows] - s0) / (s1 - s0), 0, 1)
    return costs


def time_to_baseline(
    method: Curves, baseline: Curves, budget: float, interpolate: bool = False
) -> tuple[FloatArray, FloatArray]:
    """TTB(τ): the cost at which a curve first reaches the baseline's best at τ of its budget, over the baseline's.

    TTB(τ) = min{c : s(c) >= m} / min{c : s_b(c) >= m},  m = max{s_b(c) : c <= τ c_b},  c_b the baseline's whole cost.

    Below 1 is faster (BOTS, arXiv:2510.26374, which counts steps at evaluations). The target is the maximum of noisy
    evaluations, so that even a second run of the baseline need not have 1; mean curves over seeds are less noisy.

    Args:
        method: R curves.
        baseline: R curves, each the partner of one of the method.
        budget: τ, in per cent.
        interpolate: between evaluations.

    Returns:
        the ratios (R,): infinite where the method never reaches the target, NaN where there is none to reach, as the
        baseline's best is its first score, at no cost; and the method's whole cost over the baseline's first (R,),
        which a ratio that is infinite here would at least have had.
    """
    targets = best_so_far(baseline, baseline.costs[:, -1] * budget / 100, interpolate)
    needed = first_cost(baseline, targets, interpolate)
    needed = np.where((needed > 0) & np.isfinite(needed), needed, np.nan)
    return first_cost(method, targets, interpolate) / needed, method.costs[:, -1] / needed


def best_so_far_ratio(method: Curves, baseline: Curves, budget: float, interpolate: bool = False) -> FloatArray:
    """BSF(τ): the best score within τ of the baseline's budget, over the baseline's; above 1 is better.

    BSF(τ) = max{s(c) : c <= τ c_b} / max{s_b(c) : c <= τ c_b}  (BOTS, arXiv:2510.26374). Both may spend the same: a
    method whose run was cheaper than that is judged by what it had at its end.

    Returns:
        (R,), NaN where the baseline's best is not above 0, or nothing was evaluated within the budget.
    """
    budgets = baseline.costs[:, -1] * budget / 100
    best = best_so_far(baseline, budgets, interpolate)
    return best_so_far(method, budgets, interpolate) / np.where(best > 0, best, np.nan)


@cache
def resamples(seeds: int) -> tuple[FloatArray, FloatArray]:
    """Ways to draw S seeds with replacement: the share of each seed (R, S), and the probability of each way (R,).

    All of them if there are no more than `RESAMPLES`, which is so up to 8 seeds; else as many at random.
    """
    if math.comb(2 * seeds - 1, seeds) > RESAMPLES:
        counts = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
        return counts / seeds, np.full(RESAMPLES, 1 / RESAMPLES)
    ways = combinations_with_replacement(range(seeds), seeds)
    counts = np.array([np.bincount(way, minlength=seeds) for way in ways])
    orders = [math.factorial(seeds) / math.prod(map(math.factorial, row)) for row in counts.tolist()]
    return counts / seeds, np.array(orders) / seeds**seeds


def interval(values: FloatArray, probabilities: FloatArray) -> Interval | None:
    """The central 95 % of resampled values (R,), which may be infinite; none if there is only one, or all are NaN.

    The percentile bootstrap (Efron, 1979); a quantile is the smallest value whose cumulative probability reaches it.
    It is too narrow for few seeds: with two or three it is the range of what single seeds give.
    """
    defined = ~np.isnan(values)
    if len(values) < 2 or not defined.any():
        return None
    values, probabilities = values[defined], probabilities[defined]
    order = np.argsort(values)
    cumulative = np.cumsum(probabilities[order]) / probabilities.sum()
    low, high = np.searchsorted(cumulative, [(1 - CONFIDENCE) / 2 - SLACK, (1 + CONFIDENCE) / 2 - SLACK])
    return float(values[order[low]]), float(values[order[high]])


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, sample standard deviation, and the interval of the mean; none where values or seeds are lacking."""
    numbers = np.array([value for value in values if value is not None])
    if len(numbers) < len(values):
        return {"mean": None, "std": None, "interval": None}
    weights, probabilities = resamples(len(numbers))
    return {
        "mean": float(numbers.mean()),
        "std": float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        "interval": _pair(interval(weights @ numbers, probabilities)),
    }


def compare_to_baseline(pairs: Sequence[tuple[RunRecord, RunRecord]], interpolate: bool = False) -> dict[str, Any]:
    """A method's runs against the baseline's of the same seeds.

    Returns:
        the paired `seeds`; the difference of the final scores; `time_to_baseline` and `best_so_far`, each
        {axis: {τ: {"pooled": of the mean curves, "seeds": seed by seed}}}. No difference and no axes without a pair.
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
        "time_to_baseline": faster,
        "best_so_far": better,
    }


def _mean_seeds_and_resamples(runs: Sequence[RunRecord], axis: str) -> Curves:
    """The mean curve, the S curves of the seeds, and the R mean curves of resampled seeds; (1 + S + R, E)."""
    seeds = len(runs)
    weights = np.vstack([np.full(seeds, 1 / seeds), np.eye(seeds), resamples(seeds)[0]])
    return Curves(np.array([run.costs[axis] for run in runs]), np.array([run.scores for run in runs])).mixed(weights)


def _ttb(method: Curves, baseline: Curves, budget: int, seeds: int, interpolate: bool) -> dict[str, Any]:
    """Of the mean curve, and seed by seed; in the median, a ratio that was not reached counts as infinite."""
    ratios, bounds = time_to_baseline(method, baseline, budget, interpolate)
    single, single_bounds = ratios[1 : seeds + 1], bounds[1 : seeds + 1]
    with_target = ~np.isnan(single)
    median = np.median(single[with_target]) if with_target.any() else np.nan
    lowest = np.where(np.isinf(single), single_bounds, single)[with_target]
    probabilities = resamples(seeds)[1]
    return {
        "pooled": {
            **_value_or_bound(ratios[0], bounds[0]),
            "interval": _pair(interval(ratios[seeds + 1 :], probabilities)),
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
    """Of the mean curve, and seed by seed."""
    ratios = best_so_far_ratio(method, baseline, budget, interpolate)
    within = _pair(interval(ratios[seeds + 1 :], resamples(seeds)[1]))
    values = [_finite(ratio) for ratio in ratios[: seeds + 1]]
    return {"pooled": {"value": values[0], "interval": within}, "seeds": {"values": values[1:]}}


def _value_or_bound(value: float, bound: float) -> dict[str, float | None]:
    """A ratio as `value`; if it was never reached, what it would at least have been; neither without a target."""
    return {"value": _finite(value), "at_least": _finite(bound) if np.isinf(value) else None}


def _pair(bounds: Interval | None) -> list[float | None] | None:
    """For JSON: null for an end that is infinite."""
    return None if bounds is None else [_finite(bound) for bound in bounds]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
