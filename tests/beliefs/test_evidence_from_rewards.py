"""Evidence from the rewards of a step: sums of those that are 0 or 1, of others, and of any number for each task."""

# Shapes: B tasks in the step, n_b rollouts of task b, R = Σ n_b.

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence

NAN = float("nan")

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
