# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import EasyToHardSelector

NAN = float("nan")


def selector_of(rates: list[float], seed: int = 0) -> EasyToHardSelector:
    selector = EasyToHardSelector("large")
    selector.setup(TaskFeatures(len(rates), {"large": np.array(rates)}), seed)
    return selector


def test_the_easiest_tasks_come_first_and_then_it_starts_over() -> None:
    selector = selector_of([0.2, 0.9, NAN, 0.5, 1.0])
    assert [selector.select(2).tolist() for _ in range(5)] == [[4, 1], [3, 0], [2, 4], [1, 3], [0, 2]]
    assert selector.select(5).tolist() == [4, 1, 3, 0, 2]


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, NAN]), min_size=1, max_size=20),
    st.lists(st.integers(1, 20), max_size=20),
    st.integers(0, 2**32 - 1),
)
def test_epochs_are_sorted_and_the_same_for_any_batch_sizes(rates: list[float], sizes: list[int], seed: int) -> None:
    selector, drawn = selector_of(rates, seed), []
    for size in [min(size, len(rates)) for size in sizes] + [len(rates)]:
        batch = selector.select(size).tolist()
        assert len(set(batch)) == size
        drawn += batch
    order = drawn[: len(rates)]
    assert sorted(order) == list(range(len(rates)))
    difficulty = [2.0 if np.isnan(rates[task]) else 1 - rates[task] for task in order]
    assert difficulty == sorted(difficulty)
    assert drawn == [order[place % len(rates)] for place in range(len(drawn))]


@pytest.mark.parametrize("rate", [0.5, NAN])
def test_ties_are_broken_at_random(rate: float) -> None:
    """Each of the three tied tasks is the first of its group a third of the time."""
    draws = 1500
    firsts = [selector_of([rate, rate, 1.0, rate], seed).select(2).tolist() for seed in range(draws)]
    assert {first for first, _ in firsts} == {2}
    counts = np.bincount([second for _, second in firsts], minlength=4)
    assert stats.chisquare(counts[[0, 1, 3]]).pvalue > 1e-3


def test_a_resume_keeps_place_and_broken_ties() -> None:
    rates = [0.5, NAN, 0.5, 0.1, NAN, 0.5, 0.5, NAN, 0.1]
    uninterrupted, resumed = selector_of(rates, seed=1), selector_of(rates, seed=2)
    assert uninterrupted.select(9).tolist() != resumed.select(9).tolist()
    uninterrupted.select(5)
    state = uninterrupted.state_dict()
    resumed.load_state_dict(state)
    state["order"][:] = -1
    for _ in range(10):
        np.testing.assert_array_equal(resumed.select(4), uninterrupted.select(4))


def test_evidence_is_irrelevant_and_a_batch_is_a_copy() -> None:
    ignorant, informed = selector_of([0.5] * 7), selector_of([0.5] * 7)
    for _ in range(10):
        batch = informed.select(3)
        np.testing.assert_array_equal(ignorant.select(3), batch)
        informed.observe(Evidence(batch, np.ones(3), np.full(3, 8.0)))
        batch[:] = -1


def test_errors_name_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"no reference column 'large'; it has \['small'\]\. Add"):
        EasyToHardSelector("large").setup(TaskFeatures(1, {"small": np.array([0.5])}))
    with pytest.raises(ValueError, match="batch_size=4 does not fit the pool of 3 tasks"):
        selector_of([0.1, 0.2, 0.3]).select(4)
