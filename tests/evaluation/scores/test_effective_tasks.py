"""Which groups can teach something, and how diverse a selection is."""

# Shapes: N tasks in the pool; R rows of rewards in K groups.

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy
from torch import Tensor

from bots_lightning.algorithms import group_advantages
from bots_lightning.evaluation import CountHistogram, effective_number, mixed_groups
from bots_lightning.rollouts.segments import groups_of_rows

NAN = math.nan


def in_rows(groups: list[list[float]]) -> tuple[Tensor, Tensor]:
    """(R,) rewards and (R,) the group of each, where groups may differ in size."""
    rewards = torch.tensor([reward for group in groups for reward in group])
    return rewards, groups_of_rows([len(group) for group in groups])


def test_a_group_is_mixed_when_its_rewards_are_not_all_equal() -> None:
    groups = [[1, 1, 1], [0, 0, 0], [1, 0, 1], [0.5, 0.5, 0.25], [0.5, 0.5, 0.5]]
    assert mixed_groups(*in_rows(groups)).tolist() == [False, False, True, True, False]


def test_groups_may_differ_in_size() -> None:
    groups = [[1.0], [0, 1], [0, 0, 0], [1, 1, 0, 1], [NAN, 1]]
    assert mixed_groups(*in_rows(groups)).tolist() == [False, True, False, True, False]


def test_missing_rewards_are_left_out() -> None:
    groups = [[NAN, NAN, NAN], [NAN, 1, 1], [0, NAN, 1], [NAN, NAN, 0], [-1, NAN, -1]]
    assert mixed_groups(*in_rows(groups)).tolist() == [False, False, True, False, False]


a_group = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0, NAN]), min_size=1, max_size=5)


@given(st.lists(a_group, min_size=1, max_size=6))
def test_mixed_groups_are_those_with_an_advantage(groups: list[list[float]]) -> None:
    rewards, group_of_row = in_rows(groups)
    mixed = mixed_groups(rewards, group_of_row)
    assert mixed.tolist() == [len({r for r in group if not math.isnan(r)}) > 1 for group in groups]
    advantages = group_advantages(rewards, group_of_row)
    assert mixed.tolist() == [bool((advantages[group_of_row == k] != 0).any()) for k in range(len(groups))]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, NAN]), min_size=4, max_size=4), min_size=1, max_size=6))
def test_the_order_of_rows_does_not_matter(groups: list[list[float]]) -> None:
    rewards, group_of_row = in_rows(groups)
    by_column = torch.arange(len(rewards)).view(len(groups), 4).T.flatten()
    assert torch.equal(mixed_groups(rewards[by_column], group_of_row[by_column]), mixed_groups(rewards, group_of_row))


def test_effective_number_by_hand() -> None:
    assert effective_number(np.array([3, 3, 0, 3])) == pytest.approx(3)
    assert effective_number(np.array([0, 7])) == pytest.approx(1)
    # shares 1/2, 1/4, 1/4: entropy 1/2 log 2 + 1/2 log 4 = 3/2 log 2
    assert effective_number(np.array([2, 1, 1])) == pytest.approx(2**1.5)


@given(st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=1, max_size=30))
def test_a_histogram_kept_up_to_date_is_that_of_the_counts(batches: list[set[int]]) -> None:
    counts = np.zeros(10, dtype=np.int64)
    kept = CountHistogram(counts)
    for batch in batches:
        kept.add(counts[list(batch)])
        counts[list(batch)] += 1
        anew = CountHistogram(counts)
        assert np.trim_zeros(kept.tasks, "b").tolist() == anew.tasks.tolist()
        assert kept.effective_number == anew.effective_number  # to the bit: a resumed run counts anew
        assert kept.distinct == (counts > 0).sum()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("counts", [[], [0, 0, 0]])
def test_before_the_first_selection_there_are_no_effective_tasks(counts: list[int]) -> None:
    assert effective_number(np.array(counts, dtype=np.int64)) == 0.0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any))
def test_effective_number_is_exp_of_the_entropy_and_lies_between_1_and_distinct(counts: list[int]) -> None:
    number = effective_number(np.array(counts))
    assert number == pytest.approx(math.exp(entropy(counts)))
    assert 1 - 1e-9 <= number <= sum(c > 0 for c in counts) + 1e-9
    assert effective_number(3 * np.array(counts)) == pytest.approx(number)
