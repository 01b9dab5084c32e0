# Shapes: B tasks to select, S slots of a batch, K groups.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.selection import SelectionRules
from bots_lightning.selection.rules import whole_tasks


def test_fractions_are_rounded_by_the_largest_remainder_by_hand() -> None:
    assert whole_tasks(np.array([1.25, 2.5, 0.25]), 4).tolist() == [1, 3, 0]
    assert whole_tasks(np.array([0.75, 2.5, 0.75]), 4).tolist() == [1, 2, 1]
    assert whole_tasks(np.array([2.0, 3.0]), 5).tolist() == [2, 3]
    assert whole_tasks(np.array([1 / 3, 1 / 3, 1 / 3]) * 3, 3).tolist() == [1, 1, 1]  # though 1/3·3 may be below 1


def test_a_slot_in_debt_gets_nothing_and_never_less() -> None:
    """Ten slots of a tenth each, a task at a time: every slot has one in ten."""
    assert whole_tasks(np.array([-0.9, 0.95, 0.95]), 1).tolist() == [0, 1, 0]
    assert whole_tasks(np.array([-1.5, 1.0, 1.5]), 1).tolist() == [0, 0, 1]
    due, counts = np.zeros(10), np.zeros(10, dtype=int)
    for _ in range(10):
        due += 0.1
        sizes = whole_tasks(due, 1)
        due -= sizes
        counts += sizes
    assert counts.tolist() == [1] * 10


@given(
    st.lists(st.floats(0.001, 1), min_size=1, max_size=12),
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
)
def test_shares_are_held_within_a_task_at_all_times(weights: list[float], batch_sizes: list[int]) -> None:
    shares = np.array(weights) / sum(weights)
    due, given = np.zeros(len(shares)), np.zeros(len(shares))
    for step, batch_size in enumerate(batch_sizes):
        due += shares * batch_size
        sizes = whole_tasks(due, batch_size)
        due -= sizes
        given += sizes
        assert sizes.sum() == batch_size
        assert sizes.min() >= 0
        assert np.abs(given - shares * sum(batch_sizes[: step + 1])).max() < 2


def test_a_batch_without_quotas_is_one_slot_of_all_groups() -> None:
    shares, slots = SelectionRules().slots(["a", "b"])
    assert shares.tolist() == [1.0]
    assert slots is None


def test_groups_without_quotas_share_the_rest() -> None:
    shares, slots = SelectionRules(group_quotas={"b": 0.25, "a": 0.25}).slots(["a", "b", "c", "d"])
    assert shares.tolist() == [0.25, 0.25, 0.5]
    assert slots is not None
    assert slots.tolist() == [1, 0, 2, 2]
    assert len(SelectionRules(group_quotas={"a": 0.4, "b": 0.6}).slots(["a", "b"])[0]) == 2


def test_only_kinds_with_a_share_have_a_queue() -> None:
    assert SelectionRules().queues() == {}
    queues = SelectionRules(review_share=0.1, retry_share=0.05, mastered=0.8, hopeless=0.2).queues()
    assert [(name, queue.mastered, queue.bound, queue.share) for name, queue in queues.items()] == [
        ("mastered", True, 0.8, 0.1),
        ("hopeless", False, 0.2, 0.05),
    ]


@pytest.mark.parametrize(
    ("quotas", "message"),
    [
        ({"maths": 0.5, "cod": 0.1}, r"group_quotas names \['cod'\]; the pool has the groups \['code', 'maths'\]"),
        ({"maths": 0.5, "code": 0.3}, "names all groups; expected shares that sum to 1"),
    ],
)
def test_quotas_that_do_not_fit_the_pool_are_refused(quotas: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionRules(group_quotas=quotas).slots(["maths", "code"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cooldown": -1}, "cooldown=-1; expected at least 0"),
        ({"review_share": 1.5}, "review_share=1.5; expected at least 0 and at most 1"),
        ({"mastered": float("nan")}, "mastered=nan"),
        ({"retry_share": -0.1}, "retry_share=-0.1; expected at least 0 and at most 1"),
        ({"hopeless": 1.1}, "hopeless=1.1"),
        ({"review_share": 0.6, "retry_share": 0.5}, "review_share=0.6 and retry_share=0.5; expected shares that sum"),
        ({"group_quotas": {"a": 0.7, "b": 0.4}}, "expected shares in .* that sum to at most 1"),
        ({"group_quotas": {"a": -0.1}}, "expected shares in"),
    ],
)
def test_impossible_rules_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionRules(**options)
