"""Measures on learning curves: how fast a method reaches the baseline's scores (TTB), how much better it is (BSF)."""

# Shapes: E evaluations, R curves.

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bots_lightning.evaluation.comparison.run_records import FloatArray

SLACK = 1e-9  # of costs and scores, for the rounding of their means


class Curves(NamedTuple):
    """R learning curves.

    Attributes:
        costs: (R, E), ascending.
        scores: (R, E).
    """

    costs: FloatArray
    scores: FloatArray

    def mixed(self, weights: FloatArray) -> Curves:
        """R' weighted means of the curves.

        Args:
            weights: (R', R).
        """
        return Curves(weights @ self.costs, weights @ self.scores)


def best_so_far(curves: Curves, budgets: FloatArray, interpolate: bool = False) -> FloatArray:
    """The best score at a cost within the budget.

    Args:
        curves: R curves.
        budgets: (R,).
        interpolate: join evaluations by straight lines, and include the point at the budget.

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

        TTB(τ) = min{c : s(c) >= m} / min{c : s_b(c) >= m},  m = max{s_b(c) : c <= τ c_b},

    where c_b is the baseline's total cost. Below 1 is faster (BOTS, arXiv:2510.26374, which counts steps at
    evaluations). The target is the maximum of noisy evaluations, so that even a second run of the baseline need not
    have 1; mean curves over seeds are less noisy.

    Args:
        method: R curves.
        baseline: R curves, each the partner of one of the method.
        budget: τ, in per cent.
        interpolate: between evaluations.

    Returns:
        the ratios (R,): infinite where the method never reaches the target, NaN where there is none to reach, as the
        baseline's best is its first score, at no cost; and (R,) the method's total cost over the baseline's cost of
        the target, a lower bound of a ratio that is infinite here.
    """
    targets = best_so_far(baseline, baseline.costs[:, -1] * budget / 100, interpolate)
    needed = first_cost(baseline, targets, interpolate)
    needed = np.where((needed > 0) & np.isfinite(needed), needed, np.nan)
    return first_cost(method, targets, interpolate) / needed, method.costs[:, -1] / needed


def best_so_far_ratio(method: Curves, baseline: Curves, budget: float, interpolate: bool = False) -> FloatArray:
    """BSF(τ): the best score within τ of the baseline's budget, over the baseline's; above 1 is better.

        BSF(τ) = max{s(c) : c <= τ c_b} / max{s_b(c) : c <= τ c_b}

    (BOTS, arXiv:2510.26374). Both may spend the same: a method whose run was cheaper than that is scored by the end of
    its run.

    Args:
        method: R curves.
        baseline: R curves, each the partner of one of the method.
        budget: τ, in per cent.
        interpolate: between evaluations.

    Returns:
        (R,), NaN where the baseline's best is not above 0, or nothing was evaluated within the budget.
    """
    budgets = baseline.costs[:, -1] * budget / 100
    best = best_so_far(baseline, budgets, interpolate)
    return best_so_far(method, budgets, interpolate) / np.where(best > 0, best, np.nan)
