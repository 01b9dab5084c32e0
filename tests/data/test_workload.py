"""Ranks get about as many tokens to generate, and as many tasks."""

# Shapes: B tasks, W ranks.

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.data.workload import Workload, equal_shares


def test_what_is_long_is_shared_out_first_by_hand() -> None:
    # 9 -> rank 0; 7 -> rank 1; 6 -> rank 1 (7 < 9); rank 1 is full, so that 1 -> rank 0
    assert equal_shares(np.array([1.0, 9.0, 7.0, 6.0]), 2) == [[0, 1], [2, 3]]
    # 8 | 8 | 3 (0) | 3 (1) | 2 (0) | 1 (1)
    assert equal_shares(np.array([8.0, 8.0, 3.0, 3.0, 2.0, 1.0]), 2) == [[0, 2, 4], [1, 3, 5]]


def test_tasks_that_are_alike_go_round_the_ranks() -> None:
    assert equal_shares(np.ones(6), 3) == [[0, 3], [1, 4], [2, 5]]


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_shares_cover_every_task_once_and_each_rank_has_as_many(ranks: int, per_rank: int, data: st.DataObject) -> None:
    size = ranks * per_rank
    expected = np.array(data.draw(st.lists(st.floats(0, 1e6), min_size=size, max_size=size)))
    shares = equal_shares(expected, ranks)
    assert sorted(position for share in shares for position in share) == list(range(size))
    assert {len(share) for share in shares} == {per_rank}


def test_long_tails_are_shared_out_better_than_in_rotation() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(5, 1, (200, 64))
    rotation = np.mean([max(row[rank::8].sum() for rank in range(8)) / row.sum() for row in lengths])
    shares = np.mean([max(row[share].sum() for share in equal_shares(row, 8)) / row.sum() for row in lengths])
    assert shares < 0.9 * rotation
    assert 1 / 8 < shares < 0.14


def test_a_task_is_expected_to_take_what_it_took_and_a_new_one_what_its_group_takes() -> None:
    workload = Workload(6, np.array(["a", "a", "a", "b", "b", "c"]))
    assert workload.expected([0, 3]).tolist() == [1.0, 1.0]  # nothing is known
    workload.observe({0: 10.0, 1: 20.0, 3: 100.0})
    workload.observe({0: 30.0})
    # group a: 10, 20, 30 -> 20; b: 100; c: their mean
    assert workload.expected([0, 1, 2, 3, 4, 5]).tolist() == [30.0, 20.0, 20.0, 100.0, 100.0, 60.0]


def test_the_state_is_whole_and_tasks_can_be_added() -> None:
    workload, other = (Workload(2, np.array(["a", "b"])) for _ in range(2))
    workload.observe({0: 10.0, 1: 4.0})
    workload.add_tasks(3, np.array(["a", "b", "b"]))
    assert workload.expected([2]).tolist() == [4.0]
    other.load_state_dict(workload.state_dict())
    other.add_tasks(3, np.array(["a", "b", "b"]))
    for each in (workload, other):
        each.observe({1: 8.0})
    assert other.expected([0, 1, 2]).tolist() == workload.expected([0, 1, 2]).tolist() == [10.0, 8.0, 6.0]
