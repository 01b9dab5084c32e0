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


# --- rewards that are not 0 or 1 ------------------------------------------------------------------------------------

rewards = st.lists(
    st.tuples(st.integers(0, 4), st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, NAN])), min_size=4)),
    max_size=8,
).map(lambda rows: [(task, values[:4]) for task, values in rows])
SUMS = ("successes", "counts", "squares", "interior")


def of_rewards(rows: list[tuple[int, list[float]]]) -> Evidence:
    tasks = np.array([task for task, _ in rows], dtype=np.int64)
    return from_table(tasks, np.array([values for _, values in rows], dtype=np.float64).reshape(-1, 4))


def from_table(tasks: np.ndarray, table: np.ndarray, age: float = 0.0) -> Evidence:
    """Evidence of (B, G) rewards, as many of each task."""
    return Evidence.from_rewards(tasks, table.ravel(), np.full(len(table), table.shape[1]), age)


def test_rewards_are_counted_by_hand() -> None:
    evidence = from_table(np.array([4, 2, 9]), np.array([[0.0, 1.0, 0.5, NAN], [1.0, 1.0, 0.25, 0.25], [NAN] * 4]))
    np.testing.assert_array_equal(evidence.indices, [4, 2, 9])
    np.testing.assert_array_equal(evidence.successes, [1.5, 2.5, 0])
    np.testing.assert_array_equal(evidence.counts, [3, 4, 0])
    np.testing.assert_array_equal(evidence.squares, [1 + 0.25, 1 + 1 + 2 / 16, 0])
    np.testing.assert_array_equal(evidence.interior, [1, 2, 0])


def test_rewards_at_the_ends_except_for_rounding_are_not_interior() -> None:
    evidence = from_table(np.array([0]), np.array([[1e-9, 1 - 1e-9, 1e-3, 0.999]]))
    assert evidence.interior is not None
    assert evidence.interior.tolist() == [2]


def test_left_out_sums_are_those_of_binary_rewards() -> None:
    counted = from_table(np.array([3, 1]), np.array([[0.0, 1.0, 1.0], [NAN, 0.0, 0.0]]))
    told = Evidence(np.array([3, 1]), np.array([2.0, 0.0]), np.array([3.0, 2.0]))
    for name in SUMS:
        np.testing.assert_array_equal(getattr(counted, name), getattr(told, name))


@pytest.mark.parametrize("reward", [1.5, -0.5, 1.00001, math.inf, -math.inf])
def test_a_reward_outside_of_the_range_is_an_error_that_names_it(reward: float) -> None:
    """Also where the others make up for it in the sum; only NaN is no reward."""
    with pytest.raises(ValueError, match=rf"task index 7 has the reward {reward:g}; .*Declare the reward's range"):
        from_table(np.array([6, 7]), np.array([[0.0] * 4, [NAN, 0.5, reward, 0.25]]))


def test_rewards_that_rounding_takes_out_of_the_range_are_its_ends() -> None:
    """Sixteen of them add up to no more than sixteen."""
    evidence = from_table(np.array([0, 1]), np.array([[1 + 1e-9] * 16, [-1e-9] * 16]))
    np.testing.assert_array_equal(evidence.successes, [16.0, 0.0])
    np.testing.assert_array_equal(evidence.squares, [16.0, 0.0])
    np.testing.assert_array_equal(evidence.interior, [0.0, 0.0])


@pytest.mark.parametrize(
    ("sums", "seen"),
    [
        ({"squares": 4.5}, "4.5 squares in 8.0 rollouts, and 4.0 successes; expected successes²/counts <= squares"),
        ({"squares": 1.5}, "1.5 squares in 8.0 rollouts"),  # 4²/8 = 2 is the least
        ({"squares": NAN}, "nan squares in 8.0 rollouts"),
        ({"interior": 9.0}, "9.0 interior in 8.0 rollouts, and 4.0 successes; expected 0 <= interior <= counts"),
        ({"interior": -1.0}, "-1.0 interior"),
    ],
)
def test_sums_of_no_rewards_in_range_are_named(sums: dict[str, float], seen: str) -> None:
    arrays = {name: np.array([value, 0.0]) for name, value in sums.items()}
    with pytest.raises(ValueError, match=f"task index 5 has {seen}"):
        Evidence(np.array([5, 6]), np.array([4.0, 0.0]), np.array([8.0, 0.0]), **arrays)


@pytest.mark.parametrize("name", ["squares", "interior"])
def test_sums_of_another_length_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} has shape \(3,\); expected \(2,\), one per task"):
        Evidence(np.array([0, 1]), np.ones(2), np.ones(2), **{name: np.ones(3)})


@given(rewards)
def test_rows_of_one_task_are_all_its_rewards(rows: list[tuple[int, list[float]]]) -> None:
    merged = of_rewards(rows).merged()
    for at, task in enumerate(merged.indices.tolist()):
        values = [value for other, row in rows if other == task for value in row if not math.isnan(value)]
        assert merged.counts[at] == len(values)
        assert merged.successes[at] == pytest.approx(math.fsum(values))
        assert merged.squares is not None
        assert merged.squares[at] == pytest.approx(math.fsum(value**2 for value in values))
        assert merged.interior is not None
        assert merged.interior[at] == sum(1e-6 < value < 1 - 1e-6 for value in values)


@given(st.data(), rewards)
def test_all_sums_are_the_same_in_any_order_to_the_bit(
    data: st.DataObject, rows: list[tuple[int, list[float]]]
) -> None:
    one, other = of_rewards(rows), of_rewards(data.draw(st.permutations(rows)))
    cut = data.draw(st.integers(0, len(rows)))
    parts = Evidence.concatenate([of_rewards(rows[cut:]), of_rewards(rows[:cut])])
    for name in ("indices", *SUMS):
        expected = getattr(one.merged(), name)
        np.testing.assert_array_equal(getattr(other.merged(), name), expected)
        np.testing.assert_array_equal(getattr(parts.merged(), name), expected)


def test_ages_follow_their_rows() -> None:
    late = from_table(np.array([4, 2]), np.array([[1.0, 0.0], [1.0, 1.0]]), age=1)
    both = Evidence.concatenate([late, Evidence(np.array([2, 3]), np.array([1.0, 0.0]), np.array([4.0, 4.0]))])
    np.testing.assert_array_equal(both.ages, [1, 1, 0, 0])
    merged = both.merged()
    np.testing.assert_array_equal(merged.indices, [2, 3, 4])
    np.testing.assert_array_equal(merged.successes, [2 + 1, 0, 1])
    np.testing.assert_array_equal(merged.ages, [1, 0, 1])  # of task 2, the oldest
    np.testing.assert_array_equal(late.merged().ages, [1, 1])


def test_weights_scale_every_sum_and_leave_no_age() -> None:
    late = from_table(np.array([4, 2]), np.array([[1.0, 0.5], [NAN, 1.0]]), age=3)
    weighted = late.weighted(np.array([0.5, 0.25]))
    np.testing.assert_array_equal(weighted.successes, [0.75, 0.25])
    np.testing.assert_array_equal(weighted.counts, [1.0, 0.25])
    np.testing.assert_array_equal(weighted.squares, [0.625, 0.25])
    np.testing.assert_array_equal(weighted.interior, [0.5, 0.0])
    np.testing.assert_array_equal(weighted.ages, [0, 0])


# --- tasks with unequal numbers of rollouts -------------------------------------------------------------------------


@given(
    st.lists(
        st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, NAN])), max_size=6).map(np.array), max_size=5
    )
)
def test_unequal_counts_are_those_of_a_loop_over_the_tasks(groups: list[np.ndarray]) -> None:
    indices = np.arange(len(groups))[::-1] * 2
    flat = np.concatenate([np.empty(0), *groups])
    evidence = Evidence.from_rewards(indices, flat, [len(group) for group in groups], age=2)
    np.testing.assert_array_equal(evidence.indices, indices)
    np.testing.assert_array_equal(evidence.ages, [2.0] * len(groups))
    for at, group in enumerate(groups):
        values = [value for value in group.tolist() if not math.isnan(value)]
        assert evidence.counts[at] == len(values)
        assert evidence.successes[at] == pytest.approx(sum(values), rel=1e-15)
        assert evidence.squares[at] == pytest.approx(sum(value**2 for value in values), rel=1e-15)
        assert evidence.interior[at] == sum(1e-6 < value < 1 - 1e-6 for value in values)


@given(st.integers(0, 5), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_equal_counts_are_sums_over_a_table_to_the_bit(tasks: int, generations: int, seed: int) -> None:
    table = np.random.default_rng(seed).random((tasks, generations))
    evidence = from_table(np.arange(tasks), table)
    np.testing.assert_array_equal(evidence.successes, table.sum(axis=1))
    np.testing.assert_array_equal(evidence.squares, (table**2).sum(axis=1))


def test_a_reward_out_of_range_names_its_task_among_unequal_counts() -> None:
    with pytest.raises(ValueError, match=r"task index 7 has the reward 2; expected one in \[0, 1\]"):
        Evidence.from_rewards(np.array([6, 7, 8]), np.array([0.0, 1.0, 0.0, 2.0, 1.0]), [3, 1, 1])


@pytest.mark.parametrize(
    ("shape", "counts"), [((5,), [2, 2]), ((4,), [4]), ((2, 2), [2, 2]), ((4,), [5, -1]), ((4,), [[2], [2]])]
)
def test_rewards_and_counts_that_do_not_match_are_an_error(shape: tuple[int, ...], counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"rewards and counts have shapes .* for 2 tasks; expected \(R,\) and \(2,\)"):
        Evidence.from_rewards(np.array([0, 1]), np.ones(shape), counts)


@pytest.mark.parametrize("age", [-1.0, math.inf, NAN])
def test_an_age_that_is_no_number_of_updates_is_refused(age: float) -> None:
    seen = r"task index 4 has .* ages in 2\.0 rollouts.*expected a finite number of updates >= 0\. Give none, or how"
    with pytest.raises(ValueError, match=seen):
        from_table(np.array([4]), np.array([[1.0, 0.0]]), age=age)
