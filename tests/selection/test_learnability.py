# Shapes: N tasks in the pool, K bins, B tasks to select.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import LearnabilitySelector
from bots_lightning.selection.learnability import floored


def selector_of(groups: str, seed: int = 0, **options: Any) -> LearnabilitySelector:
    """On a pool with a task for each letter, its group."""
    selector = LearnabilitySelector(**options)
    selector.setup(TaskFeatures(len(groups), groups=np.array(list(groups))), seed)
    return selector


def observe(selector: LearnabilitySelector, tasks: list[int], successes: list[float], rollouts: float = 8.0) -> None:
    selector.observe(Evidence(np.array(tasks), np.array(successes), np.full(len(tasks), rollouts)))


def test_evidence_decays_and_reverts_as_by_hand() -> None:
    """γ = 1/2, ρ = 2. Bin a sees 3 + 5 of 16, then nothing; bin b nothing, then 1 of 8."""
    selector = selector_of("aab", decay=0.5, reversion_mass=2.0, prior=(1.0, 3.0))
    observe(selector, [0, 1], [3.0, 5.0])
    assert [part.tolist() for part in selector.evidence_of(np.arange(2))] == [[8 + 1, 1], [16 + 2, 2]]
    observe(selector, [2], [1.0])
    successes, counts = selector.evidence_of(np.arange(2))
    assert successes.tolist() == [4.5 + 1, 0.5 + 1 + 1]
    assert counts.tolist() == [9 + 2, 1 + 8 + 2]
    alpha, beta = selector.concentrations(np.arange(2))
    assert alpha.tolist() == [1 + 5.5, 1 + 2.5]
    assert beta.tolist() == [3 + 5.5, 3 + 8.5]


steps = st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), max_size=4), max_size=12)


@given(steps, st.sampled_from([0.0, 0.7, 0.95, 1.0]), st.sampled_from([0.0, 2.0]), st.booleans())
def test_evidence_is_that_of_updating_every_bin_at_every_step(
    steps: list[list[tuple[int, int]]], decay: float, mass: float, alone: bool
) -> None:
    groups = "abacba"
    bin_by = "task" if alone else "group"
    selector = selector_of(groups, bin_by=bin_by, decay=decay, reversion_mass=mass)
    bins = list(range(6)) if alone else [0, 1, 0, 2, 1, 0]
    successes, counts = np.zeros(max(bins) + 1), np.zeros(max(bins) + 1)
    for step in steps:
        observe(selector, [task for task, _ in step], [float(solved) for _, solved in step])
        successes, counts = decay * successes + mass / 2, decay * counts + mass
        for task, solved in step:
            successes[bins[task]] += solved
            counts[bins[task]] += 8
    found = selector.evidence_of(np.arange(len(counts)))
    np.testing.assert_allclose(found, (successes, counts), atol=1e-9)


def test_a_starved_bin_returns_to_one_half() -> None:
    """At ρ = 2, γ = 0.95, where nothing is tried: N = ρ/(1−γ) = 40 and S = 20, whatever was seen before."""
    selector = selector_of("ab", reversion_mass=2.0)
    for _ in range(30):
        observe(selector, [0], [0.0])
    for _ in range(400):
        observe(selector, [1], [8.0])
    successes, counts = selector.evidence_of(np.arange(2))
    assert (successes[0], counts[0]) == pytest.approx((20, 40))
    assert successes[1] / counts[1] == pytest.approx(9 / 10)  # 8 + 1 of 8 + 2 at each step


def test_shares_have_a_floor() -> None:
    """1 and three times 0.05/4, over their sum 1.0375."""
    np.testing.assert_allclose(floored(np.array([7.0, 0, 0, 0]), 0.05), np.array([1, *[0.0125] * 3]) / 1.0375)
    np.testing.assert_allclose(floored(np.array([3.0, 1.0]), 0.05), [0.75, 0.25])
    np.testing.assert_allclose(floored(np.zeros(5), 0.0), np.full(5, 0.2))


@pytest.mark.parametrize(
    ("group_size", "expected"),
    [
        (2, np.array([0.5 * 0.5, 0.9 * 0.1, 0.2 * 0.8])),  # p (1−p)
        (8, np.array([1 - 2 * 0.5**8, 1 - 0.9**8 - 0.1**8, 1 - 0.2**8 - 0.8**8])),
    ],
)
def test_weights_are_those_of_the_pass_rates(group_size: int, expected: np.ndarray) -> None:
    """Of which so much is known that draws are sharp."""
    selector = selector_of("abc", decay=1.0, group_size=group_size, floor=0.0)
    observe(selector, [0, 1, 2], [5e6, 9e6, 2e6], rollouts=1e7)
    np.testing.assert_allclose(selector.weights(np.arange(3)), expected / expected.sum(), rtol=5e-3)


def test_bins_are_chosen_as_often_as_their_weight_says_whatever_their_size() -> None:
    """Bin a with one task at p = 1/2, bin b with nine at p = 0.9: 0.25 to 0.09."""
    selector = selector_of("a" + "b" * 9, decay=1.0)
    observe(selector, [0, 1], [5e6, 9e6], rollouts=1e7)
    chosen = np.concatenate([selector.select(1) for _ in range(4000)])
    assert (chosen == 0).mean() == pytest.approx(0.25 / 0.34, abs=0.03)
    others = np.bincount(chosen, minlength=10)[1:]
    assert np.ptp(others) <= 1


def test_an_unsure_bin_is_spread_over_by_drawing() -> None:
    """For p ~ Beta(1, 1) in both bins, the mean share is 1/2 and the shares vary."""
    selector = selector_of("ab")
    shares = np.array([selector.weights(np.arange(2))[0] for _ in range(3000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.std() > 0.15


def test_single_tasks_are_forecast_and_bins_are_not() -> None:
    alone = selector_of("aa", bin_by="task", prior=(1.0, 2.0))
    observe(alone, [1], [6.0])
    alpha, beta = alone.forecast(np.array([1, 0]))  # type: ignore[misc]
    assert (alpha.tolist(), beta.tolist()) == ([7.0, 1.0], [4.0, 2.0])
    assert selector_of("aa").forecast(np.array([0])) is None


def test_a_large_pool_of_single_tasks_is_sampled_by_weight() -> None:
    """Tasks known to be mastered get their floor, the others the rest: at most 0.05 to 1 for each."""
    size = 1 << 16
    selector = LearnabilitySelector("task", decay=1.0)
    selector.setup(TaskFeatures(size), seed=1)
    tasks = np.arange(size)
    known = np.where(tasks % 2 == 0, 1.0, 0.5)
    selector.observe(Evidence(tasks, 1e4 * known, np.full(size, 1e4)))
    batches = [selector.select(64) for _ in range(60)]
    assert all(len(np.unique(batch)) == 64 for batch in batches)
    mastered = (np.concatenate(batches) % 2 == 0).mean()
    floor = 0.05 / 2  # relative to the others' weight, since the mean is half of it
    assert mastered == pytest.approx(floor / (1 + floor), abs=0.012)
    assert len(np.unique(np.concatenate(batches))) > 3600


def test_new_tasks_and_bins_start_from_the_prior() -> None:
    selector = selector_of("aab", decay=0.9)
    observe(selector, [0, 2], [4.0, 8.0])
    before = selector.evidence_of(np.arange(2))
    selector.add_tasks(TaskFeatures(5, groups=np.array(list("aabca"))))
    successes, counts = selector.evidence_of(np.arange(3))
    np.testing.assert_array_equal(successes, [*before[0], 0.0])
    np.testing.assert_array_equal(counts, [*before[1], 0.0])
    observe(selector, [4], [8.0])
    assert selector.evidence_of(np.arange(1))[1][0] == pytest.approx(0.9 * 8 + 8)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"decay": 1.5}, "decay=1.5; expected at least 0 and at most 1"),
        ({"floor": -0.1}, "floor=-0.1; expected at least 0 and at most 1"),
        ({"reversion_mass": float("inf")}, "reversion_mass=inf; expected a finite number, at least 0"),
        ({"group_size": 1}, "group_size=1; expected a finite number, at least 2"),
        ({"num_bins": 0}, "num_bins=0; expected at least 1"),
        ({"prior": (0.0, 1.0)}, "alpha0=0.0; expected a finite number, more than 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], seen: str) -> None:
    with pytest.raises(ValueError, match=f"^{seen}"):
        LearnabilitySelector(**options)
