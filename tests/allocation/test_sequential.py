"""Rounds by hand: who gets more, how many, and when it ends."""

# Shapes: K tasks.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bots_lightning.allocation import PilotCommitAllocation, SequentialAllocation, TriedTasks


def tried(
    successes: Sequence[float], counts: Sequence[int], prior: tuple[float, float] = (1.0, 1.0), mixed: object = None
) -> TriedTasks:
    """Tasks with so many successes, and a belief that is updated with them."""
    s, n = np.array(successes, dtype=float), np.array(counts)
    differ = (s > 0) & (s < n) if mixed is None else np.array(mixed)
    return TriedTasks(prior[0] + s, prior[1] + n - s, n, s / n, differ)


# --- until rewards differ -------------------------------------------------------------------------------------------


def test_groups_that_are_not_mixed_get_as_many_again() -> None:
    allocation = SequentialAllocation(4, max_generations=12, min_chance=0.0)
    assert allocation.allocate(np.ones(3), np.ones(3), 8).tolist() == [4, 4, 4]
    assert allocation.more(tried([0, 2, 4], [4, 4, 4]), 100).tolist() == [4, 0, 4]
    assert allocation.more(tried([0, 2, 7], [8, 4, 8]), 100).tolist() == [4, 0, 0]  # up to the bound
    assert allocation.more(tried([0, 2, 7], [12, 4, 8]), 100).tolist() == [0, 0, 0]


def test_there_must_be_hope() -> None:
    """Beta(1, 5) after four failures: four more all fail with 5·6·7·8 / (6·7·8·9) = 5/9."""
    four_failures = tried([0], [4])
    assert SequentialAllocation(4, min_chance=0.44).more(four_failures, 9).tolist() == [4]
    assert SequentialAllocation(4, min_chance=0.45).more(four_failures, 9).tolist() == [0]
    hopeless = tried([0], [4], prior=(0.1, 30.0))
    assert SequentialAllocation(4).more(hopeless, 9).tolist() == [0]
    assert SequentialAllocation(4, min_chance=0.01).more(hopeless, 9).tolist() == [4]


def test_solved_groups_are_the_mirror_image() -> None:
    for successes in (0, 4):
        assert SequentialAllocation(4, min_chance=0.44).more(tried([successes], [4]), 9).tolist() == [4]
        assert SequentialAllocation(4, min_chance=0.45).more(tried([successes], [4]), 9).tolist() == [0]
    solved = tried([4], [4], prior=(30.0, 0.1))
    assert SequentialAllocation(4).more(solved, 9).tolist() == [0]


def test_a_short_budget_goes_where_the_chance_is_best() -> None:
    """Of one success less, one more and the same odds; what is left after the best goes to the next."""
    task = TriedTasks(
        np.array([1.0, 3.0, 2.0]), np.array([9.0, 9.0, 9.0]), np.full(3, 4), np.zeros(3), np.zeros(3, bool)
    )
    allocation = SequentialAllocation(4, min_chance=0.0)
    assert allocation.more(task, 12).tolist() == [4, 4, 4]
    assert allocation.more(task, 10).tolist() == [2, 4, 4]
    assert allocation.more(task, 5).tolist() == [0, 4, 1]
    assert allocation.more(task, 1).tolist() == [0, 1, 0]


def test_what_is_mixed_is_told_by_rewards_and_not_by_pass_rates() -> None:
    allocation = SequentialAllocation(4, min_chance=0.0)
    assert allocation.more(tried([2, 0], [4, 4], mixed=[False, True]), 99).tolist() == [4, 0]


def test_tasks_without_rewards_are_tried_to_the_bound() -> None:
    task = TriedTasks(np.ones(1), np.ones(1), np.array([4]), np.array([np.nan]), np.array([False]))
    assert SequentialAllocation(4, max_generations=6).more(task, 99).tolist() == [2]


# --- pilot and commitment -------------------------------------------------------------------------------------------


def test_the_rest_is_shared_by_tasks_in_the_band() -> None:
    allocation = PilotCommitAllocation(8)
    assert allocation.allocate(np.ones(5), np.ones(5), 16).tolist() == [8] * 5
    pilot = tried([0, 1, 6, 7, 8], [8] * 5)  # 1/8 and 3/4 are within
    assert allocation.more(pilot, 40).tolist() == [0, 20, 20, 0, 0]
    assert allocation.more(pilot, 41).tolist() == [0, 21, 20, 0, 0]
    assert allocation.more(pilot, 1).tolist() == [0, 1, 0, 0, 0]
    assert PilotCommitAllocation(8, max_generations=20).more(pilot, 40).tolist() == [0, 12, 12, 0, 0]


def test_there_is_one_commitment_and_none_without_a_task() -> None:
    allocation = PilotCommitAllocation(8, max_generations=20)
    assert allocation.more(tried([0, 8], [8, 8]), 16).tolist() == [0, 0]
    assert allocation.more(tried([0, 5], [8, 20]), 16).tolist() == [0, 0]
    without = TriedTasks(np.ones(1), np.ones(1), np.array([8]), np.array([np.nan]), np.array([False]))
    assert allocation.more(without, 16).tolist() == [0]


@pytest.mark.parametrize(("low", "high", "expected"), [(0.0, 1.0, [4, 4, 4]), (0.5, 0.5, [0, 12, 0])])
def test_the_band_includes_its_ends(low: float, high: float, expected: list[int]) -> None:
    assert PilotCommitAllocation(2, low, high).more(tried([0, 1, 2], [2, 2, 2]), 12).tolist() == expected
