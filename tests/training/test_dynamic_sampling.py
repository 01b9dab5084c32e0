"""Dynamic sampling by hand: what is kept, carried over, filled up and thrown away."""

# Shapes: B tasks per iteration, n_k rollouts of group k.

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.algorithms import RolloutGroups
from bots_lightning.evaluation import mixed_groups
from bots_lightning.rollouts import Rollouts
from bots_lightning.training import DynamicSampling

NAN = math.nan
MIXED, EQUAL = [0.0, 1.0], [1.0, 1.0]


def groups(rewards: list[list[float]], iteration: int, first: int = 0) -> RolloutGroups:
    """Groups of completions of one token, which names the group: first, first + 1, …"""
    counts = torch.tensor([len(group) for group in rewards])
    group_of_row = torch.arange(len(rewards)).repeat_interleave(counts)
    ids = (first + group_of_row).unsqueeze(1)
    ones = torch.ones(len(ids), 1, dtype=torch.bool)
    rollouts = Rollouts(ids, ones, ids, ones, ones[:, 0], iteration)
    flat = torch.tensor([reward for group in rewards for reward in group])
    return RolloutGroups(rollouts, flat, group_of_row, torch.full((len(rewards),), iteration))


def names(chosen: RolloutGroups | None) -> list[int]:
    return [] if chosen is None else chosen.rollouts.completion_ids[:, 0].unique_consecutive().tolist()


def compose(options: DynamicSampling, leftovers: RolloutGroups | None, *rounds: RolloutGroups, size: int = 2) -> Any:
    """(names in the batch, names of leftovers, metrics without their prefix) of iteration 7."""
    batch, rest, metrics = options.compose(leftovers, rounds, size, iteration=7, pad_token_id=0)
    return names(batch), names(rest), {name.removeprefix("dynamic_sampling/"): int(n) for name, n in metrics.items()}


def counts(batches: int, dropped: int = 0, filled: int = 0, leftover: int = 0, expired: int = 0) -> dict[str, int]:
    values = {"dropped": dropped, "filled": filled, "leftover": leftover, "expired": expired}
    return {"batches": batches} | {f"{name}_groups": value for name, value in values.items()}


def test_groups_of_equal_rewards_are_dropped_and_the_surplus_is_kept() -> None:
    first, second = groups([EQUAL, MIXED], 7), groups([MIXED, MIXED], 7, first=2)
    assert compose(DynamicSampling(), None, first, second) == ([1, 2], [3], counts(2, dropped=1))


def test_leftovers_come_first_and_what_is_too_old_is_thrown_away() -> None:
    leftovers, fresh = groups([MIXED, MIXED, MIXED], 6), groups([EQUAL, MIXED], 7, first=3)
    assert compose(DynamicSampling(), leftovers, fresh) == ([0, 1], [4], counts(1, dropped=1, leftover=2, expired=1))
    older = DynamicSampling(max_age=2)
    assert compose(older, leftovers, fresh) == ([0, 1], [2, 4], counts(1, dropped=1, leftover=2))
    none = DynamicSampling(max_age=0)
    assert compose(none, None, groups([MIXED] * 3, 7)) == ([0, 1], [], counts(1, expired=1))


def test_a_batch_that_lacks_mixed_groups_is_filled_up_in_the_order_of_sampling() -> None:
    first, second = groups([EQUAL, EQUAL], 7), groups([MIXED, EQUAL], 7, first=2)
    assert compose(DynamicSampling(2), None, first, second) == ([0, 2], [], counts(2, dropped=2, filled=1))
    assert compose(DynamicSampling(1), None, first) == ([0, 1], [], counts(1, filled=2))


def test_rewards_that_do_not_apply_are_no_difference() -> None:
    fresh = groups([[1.0, NAN], [NAN, NAN], MIXED], 7)
    assert compose(DynamicSampling(), None, fresh, size=1) == ([2], [], counts(1, dropped=2))
    assert not DynamicSampling().enough(None, [fresh], size=2)


def test_enough_counts_leftovers_and_all_rounds() -> None:
    one = groups([EQUAL, MIXED], 7)
    options = DynamicSampling()
    assert not options.enough(None, [one], size=2)
    assert options.enough(None, [one, one], size=2)
    assert options.enough(groups([MIXED], 6), [one], size=2)


def test_groups_of_unequal_size_keep_their_rows() -> None:
    """Leftovers of 3 and 2 rows; in the first round one of 5 and one of equal rewards, in the second one of 4."""
    leftovers = groups([[0.0, 1.0, 0.0], MIXED], 6)
    first, second = groups([[0.0, 0.0, 1.0, 1.0, 0.5], [1.0] * 6], 7, first=2), groups([[1.0, 0.0, 0.0, 0.0]], 7, 4)
    batch, rest, _ = DynamicSampling().compose(leftovers, [first, second], 3, iteration=7, pad_token_id=0)
    assert rest is not None
    assert (names(batch), names(rest)) == ([0, 1, 2], [4])
    assert batch.group_of_row.tolist() == [0] * 3 + [1] * 2 + [2] * 5
    assert batch.rewards.tolist() == [0, 1, 0, 0, 1, 0, 0, 1, 1, 0.5]
    assert (rest.group_of_row.tolist(), rest.rewards.tolist()) == ([0] * 4, [1, 0, 0, 0])
    assert (batch.iterations.tolist(), rest.iterations.tolist()) == ([6, 6, 7], [7])


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2))
def test_the_batch_has_its_size_and_no_mixed_group_is_lost_or_doubled(
    data: st.DataObject, size: int, num_rounds: int, max_age: int
) -> None:
    mixed_or_equal = st.sampled_from([MIXED, EQUAL, [*MIXED, 0.5], [1.0], [0.0] * 4, [*EQUAL, 0.0, 1.0, 1.0]])
    kinds = st.lists(mixed_or_equal, min_size=size, max_size=size)
    leftovers = groups([MIXED] * data.draw(st.integers(1, 3)), 6) if data.draw(st.booleans()) else None
    old = len(leftovers) if leftovers else 0
    rounds = [groups(data.draw(kinds), 7, first=old + size * number) for number in range(num_rounds)]
    batch, rest, metrics = compose(DynamicSampling(num_rounds, max_age), leftovers, *rounds, size=size)
    pool = RolloutGroups.concatenate([*([leftovers] if leftovers else []), *rounds], 0)
    mixed = mixed_groups(pool.rewards, pool.group_of_row).nonzero().flatten().tolist()
    assert len(batch) == len(set(batch)) == size
    assert sorted(batch) == batch
    assert [name for name in batch if name in mixed] == mixed[:size]
    surplus = mixed[size:]
    assert rest == [name for name in surplus if (8 - 6 if name < old else 8 - 7) <= max_age]
    assert metrics["expired_groups"] == len(surplus) - len(rest)
    assert metrics["filled_groups"] == max(0, size - len(mixed))
    assert metrics["dropped_groups"] + metrics["filled_groups"] == len(pool) - len(mixed)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_batches": 0}, "max_batches=0; expected at least 1"), ({"max_age": -1}, "max_age=-1; expected at least 0")],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicSampling(**options)
