# Shapes: N tasks in the pool, P profiles.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import AbilityBelief, TaskFeatures
from bots_lightning.beliefs.profiles import coarse_profiles, profiles_of

NAN = float("nan")


def test_tasks_that_agree_share_a_profile_by_hand() -> None:
    profiles = profiles_of(6, [np.array([0.5, NAN, 0.5, NAN, 0.5, 1.0]), np.array(["x", "x", "y", "x", "x", "x"])])
    assert len(profiles) == 4
    labels = profiles.labels.tolist()
    assert labels[0] == labels[4]
    assert labels[1] == labels[3]
    assert len({labels[0], labels[1], labels[2], labels[5]}) == 4
    assert sorted(profiles.members.tolist()) == [0, 1, 2, 5]  # the first task of each
    assert profiles.sizes[labels].tolist() == [2, 2, 1, 2, 2, 1]


def test_without_columns_all_tasks_are_alike() -> None:
    profiles = profiles_of(5, [])
    assert (profiles.labels.tolist(), profiles.members.tolist(), profiles.sizes.tolist()) == ([0] * 5, [0], [5])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, NAN]), st.integers(0, 2), st.sampled_from("ab")), min_size=1))
def test_profiles_are_the_distinct_rows(rows: list[tuple[float, int, str]]) -> None:
    columns = [np.array(values) for values in zip(*rows, strict=True)]
    profiles = profiles_of(len(rows), columns)
    keys = [str(row) for row in rows]
    assert len(profiles) == len(set(keys))
    assert [keys[profiles.members[label]] for label in profiles.labels] == keys
    assert [keys.index(keys[member]) for member in profiles.members] == profiles.members.tolist()


def test_few_values_stay_exact_and_many_are_rounded_to_the_finest_grid_that_is_allowed() -> None:
    column = np.linspace(0, 1, 10_001)
    assert coarse_profiles(10_001, [column.round(1)], 11).exact
    for most, steps in ((300, 256), (257, 256), (256, 128), (20, 16)):
        profiles = coarse_profiles(10_001, [column], most)
        assert (profiles.exact, len(profiles)) == (False, steps + 1)
        assert np.abs(column[profiles.members][profiles.labels] - column).max() <= 1 / steps + 1e-12


def test_if_no_grid_is_coarse_enough_every_task_has_its_own() -> None:
    column = np.linspace(0, 1, 100)
    profiles = coarse_profiles(100, [column], 10)
    assert profiles.exact
    np.testing.assert_array_equal(column[profiles.members][profiles.labels], column)


def test_unknown_values_are_not_rounded_to_known_ones() -> None:
    column = np.r_[np.linspace(2, 3, 1000), [NAN] * 3]
    profiles = coarse_profiles(1003, [column], 100)
    assert len(profiles) == 64 + 1 + 1
    assert len(set(profiles.labels[-3:].tolist())) == 1
    np.testing.assert_array_equal(np.isnan(column[profiles.members][profiles.labels]), np.isnan(column))


@pytest.mark.parametrize("kind", [np.uint16, np.int64, np.str_])
def test_labels_are_never_rounded(kind: type) -> None:
    """Group codes are labels: they are never rounded, although other columns are."""
    groups = np.arange(10_000) % 500
    profiles = coarse_profiles(10_000, [groups.astype(kind), np.linspace(0, 1, 10_000)], 9000)
    assert not profiles.exact
    np.testing.assert_array_equal(groups[profiles.members][profiles.labels], groups)


def test_the_ability_belief_keeps_groups_apart_where_numbers_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bots_lightning.beliefs.design.MOST_PROFILES", 9000)
    groups = np.array([f"g{k % 500}" for k in range(10_000)])
    features = TaskFeatures(10_000, {"a": np.linspace(0, 1, 10_000)}, groups)
    belief = AbilityBelief()
    belief.setup(features)
    np.testing.assert_array_equal(belief._group(slice(None)), features.group_codes)
