"""Groups of unequal size, compared with loops over rows."""

# K groups, R rows, N rows of the largest group.

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.rollouts.segments import by_group, groups_of_rows, places_in_group

counts_of_groups = st.lists(st.integers(1, 6), min_size=1, max_size=8)


@st.composite
def shuffled_groups(draw: st.DrawFn) -> list[int]:
    """The group of each row, in any order; every group has a row."""
    counts = draw(counts_of_groups)
    return draw(st.permutations([group for group, count in enumerate(counts) for _ in range(count)]))


def test_by_hand() -> None:
    groups = groups_of_rows([1, 3, 2])
    assert groups.tolist() == [0, 1, 1, 1, 2, 2]
    assert groups.dtype == torch.int64
    filled = by_group(torch.tensor([1.0, 2, 3, 4, 5, 6]), groups)
    nan = math.nan
    torch.testing.assert_close(filled, torch.tensor([[1, nan, nan], [2, 3, 4], [5, 6, nan]]), equal_nan=True)
    assert places_in_group(torch.tensor([1, 0, 1, 1, 0])).tolist() == [0, 0, 1, 2, 1]


@given(counts_of_groups)
def test_rows_are_numbered_by_their_groups(counts: list[int]) -> None:
    expected = [group for group, count in enumerate(counts) for _ in range(count)]
    assert groups_of_rows(counts).tolist() == groups_of_rows(torch.tensor(counts)).tolist() == expected


@given(shuffled_groups())
def test_places_count_the_rows_of_the_same_group_before(groups: list[int]) -> None:
    expected = [groups[:row].count(group) for row, group in enumerate(groups)]
    assert places_in_group(torch.tensor(groups)).tolist() == expected


@given(shuffled_groups())
def test_values_lie_side_by_side_in_their_order_with_nan_behind(groups: list[int]) -> None:
    values = torch.randn(len(groups), generator=torch.Generator().manual_seed(0))
    filled = by_group(values, torch.tensor(groups))
    for group in range(max(groups) + 1):
        own = [float(value) for value, of_row in zip(values, groups, strict=True) if of_row == group]
        assert filled[group, : len(own)].tolist() == own
        assert filled[group, len(own) :].isnan().all()
    assert filled.shape == (max(groups) + 1, max(map(groups.count, groups)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@given(rows=st.integers(1, 6), size=st.integers(1, 6))
def test_groups_of_one_size_are_a_reshape(dtype: torch.dtype, rows: int, size: int) -> None:
    values = torch.randn(rows * size, generator=torch.Generator().manual_seed(0)).to(dtype)
    filled = by_group(values, groups_of_rows([size] * rows))
    assert filled.dtype == dtype
    assert torch.equal(filled, values.reshape(rows, size))


def test_truth_values_become_numbers() -> None:
    filled = by_group(torch.tensor([True, False, True]), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(filled, torch.tensor([[1.0, math.nan], [0.0, 1.0]]), equal_nan=True)
