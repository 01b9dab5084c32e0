"""Recorded log-probabilities, and the micro-batches they are computed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.policy.recording import microbatches, record_logprobs, recorded_or_present
from bots_lightning.rollouts import Rollouts


@pytest.fixture
def rollouts(make_rollouts: Callable[..., Rollouts]) -> Rollouts:
    return make_rollouts([2, 5, 1], [4, 1, 2])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_microbatches_cover_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = microbatches(torch.tensor(lengths), budget)
    assert sorted(torch.cat(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group.tolist()) <= budget


def test_no_budget_is_one_group() -> None:
    assert [group.tolist() for group in microbatches(torch.tensor([3, 1, 2]), None)] == [[0, 1, 2]]


@pytest.mark.parametrize("max_tokens", [None, 1, 8])
def test_recorded_are_those_of_the_present_policy_at_the_temperature(
    model: PreTrainedModel, rollouts: Rollouts, max_tokens: int | None
) -> None:
    recorded = record_logprobs(model, rollouts, 0.7, max_tokens).logprobs
    assert recorded is not None
    assert not recorded.requires_grad
    mask = rollouts.completion_mask
    expected = completion_logprobs(model, rollouts, 0.7)[0][mask]
    torch.testing.assert_close(recorded[mask], expected, rtol=0, atol=1e-5)


def test_what_is_recorded_already_stays(model: PreTrainedModel, rollouts: Rollouts) -> None:
    earlier = torch.full((3, 5), torch.nan)
    earlier[1] = -2.0
    unrecorded, rollouts = rollouts, replace(rollouts, logprobs=earlier)
    recorded = record_logprobs(model, rollouts).logprobs
    assert recorded is not None
    assert recorded[1].tolist() == [-2.0] * 5
    assert (recorded[0, :2] == record_logprobs(model, unrecorded).logprobs[0, :2]).all()  # type: ignore[index]


def test_the_sampling_policy_is_the_recorded_one_row_by_row(rollouts: Rollouts) -> None:
    present = torch.full((3, 5), -1.0)
    assert recorded_or_present(rollouts, present) is present
    earlier = torch.tensor([[-3.0] * 5, [torch.nan] * 5, [-4.0] * 5])
    mixed = recorded_or_present(replace(rollouts, logprobs=earlier), present)
    assert mixed[:, 0].tolist() == [-3.0, -1.0, -4.0]
