"""What knowledge could reach on a record, against hand-worked records and a simulated one whose rates are known."""

# Shapes: N tasks, E recorded epochs.

from __future__ import annotations

import numpy as np
import pytest

from bots_lightning.evaluation.replay.frontier import frontiers, pass_rates_elsewhere
from bots_lightning.evaluation.replay.replay import ReplaySettings
from bots_lightning.evaluation.replay.trajectories import Trajectories


def record_of(successes: list[list[int]]) -> Trajectories:
    counts = np.array(successes, dtype=np.int64)
    ids = [f"t{row}" for row in range(len(counts))]
    return Trajectories(ids, counts, np.full(len(counts), 8), np.full(len(counts), np.nan))


EVERY_EPOCH = ReplaySettings(weak_from_first_epoch=False)


def test_counts_known_reach_one_on_the_tasks_that_are_ever_mixed() -> None:
    """Tasks 0 and 1 are mixed in one of two epochs each, task 2 in both, task 3 never: shares 1/4, 1/4, 1/2."""
    curve = frontiers(record_of([[4, 0], [8, 4], [4, 4], [0, 0]]), EVERY_EPOCH)["counts known"]
    assert curve["effective_task_ratio"][0] == pytest.approx(1)
    assert curve["effective_tasks"][0] == pytest.approx(2**1.5)


def test_both_curves_end_at_uniform_selection() -> None:
    for curve in frontiers(record_of([[4, 0], [8, 4], [4, 4], [0, 0]]), EVERY_EPOCH).values():
        assert curve["effective_tasks"][-1] == pytest.approx(4, abs=0.01)
        assert curve["effective_task_ratio"][-1] == pytest.approx(0.5, abs=0.02)


def test_ratio_and_diversity_trade_off_along_a_curve() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(0.5, 0.5, 200)
    record = record_of(rng.binomial(8, rates[:, None], (200, 20)).tolist())
    for curve in frontiers(record, EVERY_EPOCH).values():
        assert (np.diff(curve["effective_tasks"]) > -1e-9).all()
        assert (np.diff(curve["effective_task_ratio"]) < 0.01).all()
    known = frontiers(record, EVERY_EPOCH)
    assert known["pass rates known"]["effective_task_ratio"][0] <= known["counts known"]["effective_task_ratio"][0]


def test_a_count_does_not_predict_itself() -> None:
    """Changing an epoch's count changes the estimates of the other epochs and not its own."""
    before = pass_rates_elsewhere(record_of([[4, 4, 4, 4]]), 2.0)
    after = pass_rates_elsewhere(record_of([[4, 8, 4, 4]]), 2.0)
    assert after[0, 1] == before[0, 1]
    assert (np.delete(after[0], 1) > np.delete(before[0], 1)).all()


def test_pass_rates_elsewhere_by_hand() -> None:
    """Two epochs: each is predicted by the other alone, (8 w s + 1/4)/(8 w + 1/2) with w = exp(−1/2) at bandwidth 1."""
    weight = np.exp(-0.5)
    expected = [(6 * weight + 0.25) / (8 * weight + 0.5), (2 * weight + 0.25) / (8 * weight + 0.5)]
    np.testing.assert_allclose(pass_rates_elsewhere(record_of([[2, 6]]), 1.0)[0], expected)


def test_steady_rates_are_found_and_their_frontier_is_that_of_the_truth() -> None:
    rng = np.random.default_rng(1)
    rates = rng.beta(0.6, 0.6, 300)
    record = record_of(rng.binomial(8, rates[:, None], (300, 40)).tolist())
    np.testing.assert_allclose(pass_rates_elsewhere(record, 10.0).mean(axis=1), rates, atol=0.1)
    curve = frontiers(record, EVERY_EPOCH, bandwidth=10.0)["pass rates known"]
    utility = 1 - rates**8 - (1 - rates) ** 8
    shares = np.exp(utility / 0.1) / np.exp(utility / 0.1).sum()
    tasks = np.exp(-(shares * np.log(shares)).sum())
    estimate = np.interp(tasks, curve["effective_tasks"], curve["effective_task_ratio"])
    assert estimate == pytest.approx((shares * utility).sum(), abs=0.02)
