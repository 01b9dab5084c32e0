# Shapes: B rows in the step.

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence

NAN = float("nan")

# (task, count, share of the count that succeeded): counts of 0 and fractional successes included.
rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 16), st.floats(0, 1)), max_size=12)


def evidence_of(rows: list[tuple[int, int, float]]) -> Evidence:
    return Evidence(
        np.array([task for task, _, _ in rows], dtype=np.int64),
        np.array([count * share for _, count, share in rows], dtype=np.float64),
        np.array([count for _, count, _ in rows], dtype=np.float64),
    )


def assert_same(first: Evidence, second: Evidence) -> None:
    """Equal to the bit."""
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.successes, second.successes)
    np.testing.assert_array_equal(first.counts, second.counts)


def test_indices_that_are_not_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"indices have dtype float64; expected integers"):
        Evidence(np.array([1.7]), np.array([1.0]), np.array([8.0]))


def test_merging_adds_rows_and_sorts_tasks() -> None:
    evidence = Evidence(
        np.array([7, 2, 7, 4, 2, 9]), np.array([3, 0.5, 1, 0, 2, 0]), np.array([8, 4, 4, 8, 4, 0])
    ).merged()
    np.testing.assert_array_equal(evidence.indices, [2, 4, 7])  # task 9 was not rolled out
    np.testing.assert_array_equal(evidence.successes, [0.5 + 2, 0, 3 + 1])
    np.testing.assert_array_equal(evidence.counts, [4 + 4, 8, 8 + 4])


@given(rows)
def test_merging_agrees_with_exact_sums(rows: list[tuple[int, int, float]]) -> None:
    evidence = evidence_of(rows)
    merged = evidence.merged()
    tried = sorted({task for task, count, _ in rows if count > 0})
    assert merged.indices.tolist() == tried
    for task, successes, count in zip(merged.indices, merged.successes, merged.counts, strict=True):
        of_task = evidence.indices == task
        assert successes == pytest.approx(math.fsum(evidence.successes[of_task]), rel=1e-14)
        assert count == evidence.counts[of_task].sum()


@given(st.data(), rows)
def test_the_order_of_rows_is_irrelevant_to_the_bit(data: st.DataObject, rows: list[tuple[int, int, float]]) -> None:
    assert_same(evidence_of(rows).merged(), evidence_of(data.draw(st.permutations(rows))).merged())


@given(rows)
def test_merging_twice_changes_nothing(rows: list[tuple[int, int, float]]) -> None:
    once = evidence_of(rows).merged()
    assert_same(once, once.merged())


def test_sums_that_round_depend_on_the_order_unless_sorted() -> None:
    """The case that makes sorting by the values necessary: 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1."""
    shares = [0.1, 0.2, 0.3]
    assert sum(shares) != sum(shares[::-1])
    forward, backward = (
        Evidence(np.zeros(3, dtype=int), np.array(s), np.ones(3)).merged() for s in (shares, shares[::-1])
    )
    assert forward.successes[0] == backward.successes[0]


@given(st.lists(rows, min_size=1, max_size=3))
def test_ranks_may_report_in_any_order(parts: list[list[tuple[int, int, float]]]) -> None:
    ranks = [evidence_of(part) for part in parts]
    whole = evidence_of([row for part in parts for row in part])
    assert_same(Evidence.concatenate(ranks), whole)
    assert_same(Evidence.concatenate(ranks[::-1]).merged(), whole.merged())


@pytest.mark.parametrize(
    ("successes", "counts", "seen"),
    [
        (-0.5, 8.0, "-0.5 successes in 8.0 rollouts"),
        (8.5, 8.0, "8.5 successes in 8.0 rollouts"),
        (float("nan"), 8.0, "nan successes in 8.0 rollouts"),
        (0.0, float("nan"), "0.0 successes in nan rollouts"),
        (1.0, float("inf"), "1.0 successes in inf rollouts"),
        (float("inf"), float("inf"), "inf successes in inf rollouts"),
        (0.0, -1.0, "0.0 successes in -1.0 rollouts"),
    ],
)
def test_out_of_range_evidence_names_task_and_values(successes: float, counts: float, seen: str) -> None:
    with pytest.raises(
        ValueError, match=f"task index 41 has {seen}; expected 0 <= successes <= counts.*reward's range"
    ):
        Evidence(np.array([3, 41, 5]), np.array([1, successes, 2]), np.array([8, counts, 8]))


def test_the_bounds_themselves_are_in_range() -> None:
    evidence = Evidence(np.array([0, 1, 2]), np.array([0.0, 8.0, 0.0]), np.array([8.0, 8.0, 0.0]))
    np.testing.assert_array_equal(evidence.merged().successes, [0.0, 8.0])


def test_a_negative_index_is_an_error() -> None:
    with pytest.raises(ValueError, match="task index -2 is negative"):
        Evidence(np.array([0, -2]), np.ones(2), np.ones(2))


@pytest.mark.parametrize("shape", [(3,), (2, 1), ()])
def test_lengths_that_differ_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected three times"):
        Evidence(np.array([0, 1]), np.ones(shape), np.ones(2))


def test_rows_in_a_matrix_are_an_error() -> None:
    with pytest.raises(ValueError, match="expected three times"):
        Evidence(np.zeros((2, 2), dtype=int), np.ones((2, 2)), np.ones((2, 2)))
