from dataclasses import replace

import pytest
import torch

from bots_lightning.rollouts import Rollouts, completion_mask, concatenate


def test_mask_ends_with_the_first_stop_token() -> None:
    ids = torch.tensor([[5, 1, 1, 5], [5, 5, 5, 5], [1, 0, 0, 0], [5, 2, 0, 1]])
    mask, finished = completion_mask(ids, stop_token_ids=[1, 2])
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert finished.tolist() == [True, False, True, True]


def test_pad_may_equal_the_stop_token() -> None:
    mask, finished = completion_mask(torch.tensor([[5, 6, 1, 1, 1]]), stop_token_ids=[1])
    assert mask.int().tolist() == [[1, 1, 1, 0, 0]]
    assert finished.tolist() == [True]


def test_rows_are_trimmed_to_their_longest() -> None:
    rollouts = Rollouts(
        prompt_ids=torch.tensor([[0, 0, 3], [4, 5, 6], [0, 7, 8]]),
        prompt_mask=torch.tensor([[False, False, True], [True, True, True], [False, True, True]]),
        completion_ids=torch.tensor([[9, 1, 0, 0], [9, 9, 9, 1], [1, 0, 0, 0]]),
        completion_mask=torch.tensor([[True, True, False, False], [True] * 4, [True, False, False, False]]),
        finished=torch.tensor([True, True, True]),
        policy_version=3,
        logprobs=torch.arange(12.0).reshape(3, 4),
    )
    part = rollouts.rows(torch.tensor([0, 2]))
    assert part.prompt_ids.tolist() == [[0, 3], [7, 8]]
    assert part.completion_ids.tolist() == [[9, 1], [1, 0]]
    assert part.lengths.tolist() == [2, 1]
    assert part.logprobs is not None
    assert part.logprobs.tolist() == [[0, 1], [8, 9]]
    assert part.policy_version == 3


NARROW = Rollouts(
    prompt_ids=torch.tensor([[3], [4]]),
    prompt_mask=torch.ones(2, 1, dtype=torch.bool),
    completion_ids=torch.tensor([[9, 8, 1], [9, 1, 0]]),
    completion_mask=torch.tensor([[True, True, True], [True, True, False]]),
    finished=torch.tensor([True, True]),
    policy_version=5,
)
WIDE = Rollouts(
    prompt_ids=torch.tensor([[5, 6]]),
    prompt_mask=torch.ones(1, 2, dtype=torch.bool),
    completion_ids=torch.tensor([[7]]),
    completion_mask=torch.tensor([[True]]),
    finished=torch.tensor([False]),
    policy_version=4,
    logprobs=torch.tensor([[-0.5]]),
)


def test_parts_are_padded_to_the_widest_prompts_left_and_completions_right() -> None:
    both = concatenate([NARROW, WIDE], pad_token_id=99)
    assert both.prompt_ids.tolist() == [[99, 3], [99, 4], [5, 6]]
    assert both.prompt_mask.int().tolist() == [[0, 1], [0, 1], [1, 1]]
    assert both.completion_ids.tolist() == [[9, 8, 1], [9, 1, 0], [7, 99, 99]]
    assert both.completion_mask.int().tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert both.finished.tolist() == [True, True, False]
    assert both.policy_version == 4  # the oldest


def test_log_probabilities_that_are_not_known_are_nan() -> None:
    both = concatenate([NARROW, WIDE], pad_token_id=0)
    assert both.logprobs is not None
    assert both.logprobs[:2].isnan().all()
    assert both.logprobs[2, 0] == -0.5
    assert concatenate([NARROW, replace(WIDE, logprobs=None)], pad_token_id=0).logprobs is None


# The policy sampled the first and the last token of the first row; a tool answered between them.
WITH_TOOL = replace(NARROW, action_mask=torch.tensor([[True, False, True], [True, True, False]]))


def test_all_tokens_of_a_completion_are_actions_unless_something_else_is_said() -> None:
    assert torch.equal(NARROW.action_mask, NARROW.completion_mask)
    assert WITH_TOOL.action_mask.int().tolist() == [[1, 0, 1], [1, 1, 0]]
    assert WITH_TOOL.lengths.tolist() == [3, 2]  # of the whole completions


def test_actions_are_carried_by_all_that_makes_rollouts_of_rollouts() -> None:
    both = concatenate([WIDE, WITH_TOOL], pad_token_id=0)
    assert both.action_mask.int().tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
    assert both.rows(torch.tensor([2, 0])).action_mask.int().tolist() == [[1, 1], [1, 0]]
    assert both.rows(torch.tensor([1])).action_mask.int().tolist() == [[1, 0, 1]]
    assert replace(both, policy_version=9).action_mask is both.action_mask
    moved = both.to(torch.device("meta"))
    assert moved.action_mask.device.type == moved.completion_mask.device.type == "meta"


@pytest.mark.parametrize("rollouts", [NARROW, WIDE, WITH_TOOL])
def test_rollouts_are_restored_from_their_fields(rollouts: Rollouts) -> None:
    again = Rollouts(**vars(rollouts))
    assert torch.equal(again.action_mask, rollouts.action_mask)
    before = {name: value for name, value in vars(rollouts).items() if name != "action_mask"}
    assert torch.equal(Rollouts(**before).action_mask, rollouts.completion_mask)  # of older checkpoints


def test_rows_of_what_was_concatenated_are_the_parts() -> None:
    both = concatenate([NARROW, WIDE], pad_token_id=0)
    for part, rows in ((NARROW, [0, 1]), (WIDE, [2])):
        again = both.rows(torch.tensor(rows))
        for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "finished"):
            assert torch.equal(getattr(again, name), getattr(part, name))
    assert concatenate([WIDE], pad_token_id=0) is WIDE
