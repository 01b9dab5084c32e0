"""Rows of experience: which are taken, how far they are trimmed, and what is saved of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bots_lightning.algorithms import Experience
from bots_lightning.rollouts import Rollouts


@pytest.fixture
def experience() -> Experience:
    """Three rows of 1, 3 and 2 prompt tokens, and of 2, 1 and 4 completion tokens."""
    rows = torch.arange(3).unsqueeze(1)
    prompt_mask = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    tokens = 10 * rows + torch.arange(4)
    finished = torch.tensor([True, True, False])
    rollouts = Rollouts(10 * rows + torch.arange(3), prompt_mask, tokens, mask, finished, 7, -tokens.float())
    return Experience(rollouts, mask, torch.tensor([0.5, -1.0, 2.0]), -tokens.float(), values=tokens / 100)


def test_lengths_count_prompt_and_completion(experience: Experience) -> None:
    assert experience.lengths.tolist() == [1 + 2, 3 + 1, 2 + 4]


def test_rows_are_taken_in_order_and_trimmed_to_the_longest(experience: Experience) -> None:
    part = experience.rows(torch.tensor([1, 0]))
    assert part.rollouts.prompt_ids.tolist() == [[10, 11, 12], [0, 1, 2]]
    assert part.rollouts.completion_ids.tolist() == [[10, 11], [0, 1]]
    assert part.mask.tolist() == [[True, False], [True, True]]
    assert part.advantages.tolist() == [-1.0, 0.5]
    assert part.old_logprobs is not None
    assert part.old_logprobs.tolist() == [[-10, -11], [0, -1]]
    assert part.values is not None
    torch.testing.assert_close(part.values, torch.tensor([[0.10, 0.11], [0.0, 0.01]]))
    assert part.ref_logprobs is None
    assert part.returns is None
    assert part.rollouts.policy_version == 7


def test_advantages_of_tokens_are_trimmed_and_those_of_rows_are_not(experience: Experience) -> None:
    per_token = replace(experience, advantages=torch.arange(12.0).reshape(3, 4))
    assert per_token.rows(torch.tensor([0])).advantages.tolist() == [[0, 1]]
    square = replace(experience.rows(torch.tensor([0, 1])), advantages=torch.tensor([3.0, 4.0]))  # R = T = 2
    assert square.rows(torch.tensor([1])).advantages.tolist() == [4.0]


def test_without_tokens_there_are_the_same_rows_and_nothing_to_learn(experience: Experience) -> None:
    empty = experience.without_tokens()
    assert not empty.mask.any()
    assert torch.equal(empty.rollouts.completion_mask, experience.rollouts.completion_mask)
    assert experience.mask.sum() == 7


def test_its_state_is_tensors_by_name_that_load_without_code(experience: Experience, tmp_path: Path) -> None:
    torch.save(experience.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    ids = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "finished", "logprobs", "action_mask"}
    assert loaded.keys() == ids | {"mask", "advantages", "old_logprobs", "values"}
    assert torch.equal(loaded["completion_ids"], experience.rollouts.completion_ids)
    assert torch.equal(loaded["advantages"], experience.advantages)
