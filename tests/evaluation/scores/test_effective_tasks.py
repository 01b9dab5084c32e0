"""Which groups can teach something, and how diverse a selection is."""

# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task.

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from bots_lightning.algorithms import group_advantages
from bots_lightning.evaluation import CountHistogram, effective_number, mixed_groups

NAN = math.nan
REWARDS = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 1], [0.5, 0.5, 0.25], [0.5, 0.5, 0.5]])


def test_a_group_is_mixed_when_its_rewards_are_not_all_equal() -> None:
    assert mixed_groups(REWARDS).tolist() == [False, False, True, True, False]


def test_missing_rewards_play_no_part() -> None:
    rewards = torch.tensor([[NAN, NAN, NAN], [NAN, 1, 1], [0, NAN, 1], [NAN, NAN, 0], [-1, NAN, -1]])
    assert mixed_groups(rewards).tolist() == [False, False, True, False, False]


groups = st.lists(
    st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0, NAN]), min_size=4, max_size=4), min_size=1, max_size=6
)


@given(groups)
def test_mixed_groups_are_those_with_an_advantage(rewards: list[list[float]]) -> None:
    mixed = mixed_groups(torch.tensor(rewards))
    assert mixed.tolist() == [len({r for r in row if not math.isnan(r)}) > 1 for row in rewards]
    assert mixed.tolist() == (group_advantages(torch.tensor(rewards)) != 0).any(dim=1).tolist()


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
        whole = CountHistogram(counts)
        assert np.trim_zeros(kept.tasks, "b").tolist() == whole.tasks.tolist()
        assert kept.effective_number == whole.effective_number  # to the bit: a resumed run counts anew
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
