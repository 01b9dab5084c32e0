"""Requests say how many completions each prompt gets; what does not fit together is refused."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedModel

from bots_lightning.rollouts import GenerationRequest, SamplingParams
from bots_lightning.rollouts.padding import padded_prompts

SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1,), pad_token_id=0)


def test_rows_of_a_prompt_follow_each_other(model: PreTrainedModel) -> None:
    request = GenerationRequest(model, [[5, 6], [7]], [1, 3], SAMPLING, [10, 20])
    assert request.prompt_of_row == [0, 1, 1, 1]
    ids, mask = padded_prompts(request)
    assert ids.tolist() == [[5, 6], [0, 7], [0, 7], [0, 7]]
    assert mask.int().tolist() == [[1, 1], [0, 1], [0, 1], [0, 1]]


def test_completions_start_at_the_first_unless_said_otherwise(model: PreTrainedModel) -> None:
    assert GenerationRequest(model, [[5], [7]], [1, 3], SAMPLING, [10, 20]).starts == [0, 0]
    assert GenerationRequest(model, [[5], [7]], [1, 3], SAMPLING, [10, 20], starts=[4, 0]).starts == [4, 0]


@pytest.mark.parametrize(
    ("prompts", "counts", "seeds", "message"),
    [
        ([[5], [6]], [4], [1, 2], "2 prompts, 1 counts, 2 seeds; expected equally many"),
        ([[5], [6]], [4, 4], [1], "2 prompts, 2 counts, 1 seeds; expected equally many"),
        ([[5]], [4, 4], [1, 2], "1 prompts, 2 counts, 2 seeds; expected equally many"),
        ([], [], [], "0 prompts, 0 counts, 0 seeds; expected equally many, at least one"),
        ([[5], [6]], [4, 0], [1, 2], r"counts\[1\]=0; expected at least 1. Leave out prompts that get none"),
        ([[5], [6]], [-1, 4], [1, 2], r"counts\[0\]=-1; expected at least 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    model: PreTrainedModel, prompts: Any, counts: Any, seeds: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationRequest(model, prompts, counts, SAMPLING, seeds)
