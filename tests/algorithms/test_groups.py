"""Groups of unequal size: which are taken, how batches are put together, and what is saved of them."""

# Shapes: K groups, n_k rows in group k, R = Σ n_k rows.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from algorithm_helpers import groups_of

from bots_lightning.algorithms import RolloutGroups
from bots_lightning.rollouts import Rollouts

COUNTS = [2, 3, 1, 5]
NewGroups = Callable[..., RolloutGroups]


@pytest.fixture
def new_groups(make_rollouts: Callable[..., Rollouts]) -> NewGroups:
    """`new_groups(counts, seed)`: rewards tell the rows, iterations the groups; rows differ in length."""

    def new_groups(counts: Sequence[int] = COUNTS, seed: int = 0, longest: int = 6) -> RolloutGroups:
        rows = sum(counts)
        lengths = [1 + (3 * row + seed) % longest for row in range(rows)]
        rollouts = make_rollouts(lengths, [1 + row % 4 for row in range(rows)], seed)
        groups = groups_of(rollouts, torch.arange(rows) + 100.0 * seed, counts)
        return replace(groups, iterations=torch.arange(len(counts)) + 10 * seed)

    return new_groups


def tokens_of(groups: RolloutGroups) -> list[list[list[int]]]:
    """The tokens of every row, prompt and completion, by group."""
    rollouts = groups.rollouts
    prompts = [ids[mask].tolist() for ids, mask in zip(rollouts.prompt_ids, rollouts.prompt_mask, strict=True)]
    rows = [prompt + completion for prompt, completion in zip(prompts, rollouts.completion_lists(), strict=True)]
    of_row = groups.group_of_row.tolist()
    return [[row for row, own in zip(rows, of_row, strict=True) if own == group] for group in range(len(groups))]


def rewards_of(groups: RolloutGroups) -> list[list[float]]:
    return [groups.rewards[groups.group_of_row == group].tolist() for group in range(len(groups))]


@pytest.mark.parametrize("chosen", [[0], [2], [3], [0, 2], [1, 3], [0, 1, 3], [0, 1, 2, 3]])
def test_groups_are_taken_whole_and_numbered_anew(new_groups: NewGroups, chosen: list[int]) -> None:
    groups = new_groups()
    taken = groups.take(torch.tensor(chosen))
    assert len(taken) == len(chosen)
    assert taken.group_of_row.tolist() == [new for new, old in enumerate(chosen) for _ in range(COUNTS[old])]
    assert tokens_of(taken) == [tokens_of(groups)[group] for group in chosen]
    assert rewards_of(taken) == [rewards_of(groups)[group] for group in chosen]
    assert taken.iterations.tolist() == chosen


def test_taken_rows_are_trimmed_to_the_longest_of_them(new_groups: NewGroups) -> None:
    alone = new_groups().take(torch.tensor([2]))  # a single row: the sixth
    assert alone.rollouts.completion_ids.shape == (1, 1 + 3 * 5 % 6)
    assert alone.rollouts.prompt_ids.shape == (1, 1 + 5 % 4)


def test_batches_are_put_together_in_order(new_groups: NewGroups) -> None:
    batches = [new_groups(), new_groups([4], seed=1, longest=2), new_groups([1, 2], seed=2, longest=9)]
    joined = RolloutGroups.concatenate(batches, pad_token_id=0)
    counts = [*COUNTS, 4, 1, 2]
    assert len(joined) == len(counts)
    assert joined.group_of_row.tolist() == [group for group, count in enumerate(counts) for _ in range(count)]
    assert tokens_of(joined) == [group for batch in batches for group in tokens_of(batch)]
    assert rewards_of(joined) == [group for batch in batches for group in rewards_of(batch)]
    assert joined.iterations.tolist() == [0, 1, 2, 3, 10, 20, 21]


def test_what_is_put_together_can_be_taken_apart(new_groups: NewGroups) -> None:
    first, second = new_groups(), new_groups([4, 1], seed=1)
    joined = RolloutGroups.concatenate([first, second], pad_token_id=0)
    for batch, positions in ((first, [0, 1, 2, 3]), (second, [4, 5])):
        again = joined.take(torch.tensor(positions))
        assert torch.equal(again.group_of_row, batch.group_of_row)
        assert torch.equal(again.rewards, batch.rewards)
        assert tokens_of(again) == tokens_of(batch)


def test_a_single_batch_is_returned_unchanged(new_groups: NewGroups) -> None:
    groups = new_groups()
    assert RolloutGroups.concatenate([groups], pad_token_id=0) is groups


def test_its_state_loads_without_code_and_gives_the_same_groups(new_groups: NewGroups, tmp_path: Path) -> None:
    groups = new_groups()
    holes = groups.rollouts.completion_mask & (torch.arange(4) != 1)
    rollouts = replace(groups.rollouts, logprobs=-torch.rand(11, 4), policy_version=7, action_mask=holes)
    groups = replace(groups, rollouts=rollouts)
    torch.save(groups.state_dict(), tmp_path / "state.pt")
    loaded = RolloutGroups.from_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for name in ("rewards", "group_of_row", "iterations"):
        assert torch.equal(getattr(loaded, name), getattr(groups, name))
    assert vars(loaded.rollouts).keys() == vars(rollouts).keys()
    for name, value in vars(rollouts).items():
        other = getattr(loaded.rollouts, name)
        assert torch.equal(other, value) if torch.is_tensor(value) else other == value
    assert tokens_of(loaded.take(torch.tensor([1, 3]))) == [tokens_of(groups)[1], tokens_of(groups)[3]]


def test_all_tensors_go_to_the_device(new_groups: NewGroups) -> None:
    moved = new_groups().to(torch.device("meta"))
    tensors = [moved.rewards, moved.group_of_row, moved.iterations, *vars(moved.rollouts).values()]
    assert {tensor.device.type for tensor in tensors if torch.is_tensor(tensor)} == {"meta"}
