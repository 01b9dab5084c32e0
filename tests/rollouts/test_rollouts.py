import torch

from bots_lightning.rollouts import Rollouts, completion_mask


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
