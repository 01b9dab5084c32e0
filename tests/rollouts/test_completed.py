"""Engines report each prompt once its completions have all ended, with the tokens that they return in the end."""

# P prompts, n completions each, R = P·n rows, T completion tokens.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rollout_helpers import Reports, request_for
from torch import Tensor
from transformers import MambaConfig, MambaForCausalLM, PreTrainedModel

from bots_lightning.rollouts import (
    CompactEngine,
    GenerateEngine,
    GenerationRequest,
    RolloutEngine,
    SamplingParams,
    completion_mask,
    decoding,
)
from bots_lightning.rollouts import compact as compact_module
from bots_lightning.rollouts import generate as generate_module
from bots_lightning.rollouts.completed import own_tokens
from bots_lightning.rollouts.noise import uniform_noise

PROMPTS = [[5, 6, 7], [8], [9, 10], [5, 6, 7]]
SEEDS = [1, 2, 3, 4]
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1, 4), pad_token_id=4)
BUILDERS = [
    GenerateEngine,
    lambda: GenerateEngine(max_rows=5),
    CompactEngine,
    lambda: CompactEngine(max_tokens=25),
    lambda: CompactEngine(logprobs=True),
]
NAMES = ["generate", "generate in chunks", "compact", "compact in small chunks", "compact with logprobs"]


@pytest.fixture(params=BUILDERS, ids=NAMES)
def engine(request: pytest.FixtureRequest) -> RolloutEngine:
    return request.param()


def set_lengths(monkeypatch: pytest.MonkeyPatch, lengths: list[int]) -> SamplingParams:
    """Completions of these lengths, by noise: token 0 ends them, and is drawn where the noise is 0 and only there."""

    def noise(seeds: Any, counts: Any, length: int, starts: Any) -> Tensor:
        drawn = uniform_noise(seeds, counts, length, starts) / 100 + 0.99
        drawn[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 0.0
        return drawn

    for module in (compact_module, generate_module):
        monkeypatch.setattr(module, "uniform_noise", noise)
    return SamplingParams(max_completion_length=max(lengths), stop_token_ids=(0,), pad_token_id=3)


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[list[list[list[int]]]]:
    """The tokens of every pass through the model."""
    passes: list[list[list[int]]] = []

    def record(_: Any, args: Any, kwargs: dict[str, Tensor]) -> None:
        passes.append(kwargs["input_ids"].tolist())

    hook = model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.sets(st.integers(0, 5), min_size=1), st.integers(1, 9))
def test_own_tokens_are_those_of_the_mask(tokens: list[int], stops: set[int], limit: int) -> None:
    mask, _ = completion_mask(torch.tensor([tokens[:limit]]), tuple(stops))
    expected = torch.tensor(tokens[:limit])[mask[0]].tolist()
    assert own_tokens(tokens, SamplingParams(limit, tuple(stops), pad_token_id=0)) == expected


@pytest.mark.parametrize("n", [1, 8])
def test_every_prompt_is_reported_once_with_the_rows_that_are_returned(
    model: PreTrainedModel, engine: RolloutEngine, n: int
) -> None:
    reported = Reports()
    rollouts = engine.generate(request_for(model, PROMPTS, n, SAMPLING, SEEDS, on_completed=reported))
    reported.assert_all_of(rollouts, n)
    assert torch.equal(
        rollouts.completion_ids, engine.generate(request_for(model, PROMPTS, n, SAMPLING, SEEDS)).completion_ids
    )
    if n == 8:
        assert 0 < int(rollouts.finished.sum()) < len(rollouts)


def test_prompts_are_reported_with_as_many_completions_as_were_asked_for(
    model: PreTrainedModel, engine: RolloutEngine
) -> None:
    reported, counts = Reports(), [3, 1, 8, 2]
    rollouts = engine.generate(GenerationRequest(model, PROMPTS, counts, SAMPLING, SEEDS, on_completed=reported))
    reported.assert_each_of(rollouts, counts)


def test_rows_that_have_ended_and_are_still_in_flight_are_reported_once(model: PreTrainedModel) -> None:
    reported = Reports()  # of 32 rows, three or fewer that have ended are not worth dropping
    rollouts = CompactEngine().generate(
        request_for(model, PROMPTS * 8, 1, SAMPLING, list(range(32)), on_completed=reported)
    )
    reported.assert_all_of(rollouts, 1)


def test_engines_that_are_given_a_model_they_cannot_read_report_as_well() -> None:
    config = MambaConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=1, state_size=4, pad_token_id=0, eos_token_id=1
    )
    model, reported = MambaForCausalLM(config).eval(), Reports()
    with pytest.warns(UserWarning, match="takes no past"):
        rollouts = CompactEngine(max_tokens=30).generate(
            request_for(model, PROMPTS, 2, SAMPLING, SEEDS, on_completed=reported)
        )
    reported.assert_all_of(rollouts, 2)


@pytest.mark.parametrize("error", [KeyError("grader"), MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_what_the_listener_raises_is_raised_even_if_it_looks_like_running_out_of_memory(
    model: PreTrainedModel, engine: RolloutEngine, error: Exception
) -> None:
    def fail(position: int, token_lists: list[list[int]]) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        engine.generate(request_for(model, PROMPTS, 2, SAMPLING, SEEDS, on_completed=fail))
    assert caught.value is error


@pytest.mark.parametrize(("check_every", "times"), [(1, [2, 5, 24]), (4, [4, 8, 24])])
def test_the_compact_engine_reports_as_soon_as_it_sees_that_all_have_ended(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, check_every: int, times: list[int]
) -> None:
    """A pass through the model gives a token to each row: those of length T have ended after pass T."""
    monkeypatch.setitem(decoding.CHECK_EVERY, "cpu", check_every)
    CompactEngine().generate(
        request_for(model, PROMPTS[:1], 1, SAMPLING, SEEDS[:1])
    )  # the trial of a new model comes first
    sampling = set_lengths(monkeypatch, [1, 24, 5, 1, 2, 2])
    with recorded(model) as passes:
        reported = Reports(lambda: len(passes))
        rollouts = CompactEngine().generate(
            request_for(model, PROMPTS[:3], 2, sampling, SEEDS[:3], on_completed=reported)
        )
    assert rollouts.lengths.tolist() == [1, 24, 5, 1, 2, 2]
    assert reported.positions == [2, 1, 0]
    assert reported.times == times
    assert len(passes) == 24
    reported.assert_all_of(rollouts, 2)


def test_the_generate_engine_reports_after_each_chunk_of_rows(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = set_lengths(monkeypatch, [3, 1, 2, 9, 4, 4])
    with recorded(model) as passes:
        reported = Reports(lambda: len(passes))
        rollouts = GenerateEngine(max_rows=3).generate(
            request_for(model, PROMPTS[:3], 2, sampling, SEEDS[:3], on_completed=reported)
        )
    assert reported.positions == [0, 1, 2]
    assert reported.times == [3, 3 + 9, 3 + 9]  # rows 0, 1 and 2 take 3 passes, rows 3, 4 and 5 take 9
    reported.assert_all_of(rollouts, 2)


@pytest.mark.parametrize("check_every", [1, 4])
def test_rows_that_were_put_aside_are_reported_when_they_have_ended(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, check_every: int
) -> None:
    """Of 32 prompts, 4 completions each, every fourth has one long row; each budget takes 32 rows and leaves 2."""
    lengths = [24 if row % 16 == 5 else 1 + row % 4 for row in range(128)]
    sampling = set_lengths(monkeypatch, lengths)
    monkeypatch.setitem(decoding.CHECK_EVERY, "cpu", check_every)
    prompts = [[2 + i % 10] * 8 + [2 + i // 10] for i in range(32)]
    long = [p for p in range(32) if 24 in lengths[4 * p : 4 * p + 4]]
    with recorded(model) as passes:
        reported = Reports(lambda: len(passes))
        engine = CompactEngine(max_tokens=32 * (9 + 24))
        rollouts = engine.generate(request_for(model, prompts, 4, sampling, list(range(32)), on_completed=reported))
    assert rollouts.lengths.tolist() == lengths
    reported.assert_all_of(rollouts, 4)
    assert len(long) == 8
    assert reported.positions[-8:] == long
    assert reported.times[23] <= len(passes) - 20  # all others before the 20 tokens that long rows go on for
    assert [len(rows) for rows in passes if len(rows[0]) == 9 + 4] == [8]  # the long rows, read again


@pytest.mark.filterwarnings("ignore:out of memory")
def test_what_was_reported_before_memory_ran_out_is_not_sampled_again(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out at the fourth pass: prompt 1 has ended by then, and so has a row of prompt 0."""
    CompactEngine().generate(
        request_for(model, PROMPTS[:1], 1, SAMPLING, SEEDS[:1])
    )  # the trial of a new model comes first
    sampling = set_lengths(monkeypatch, [2, 8, 3, 3, 8, 8])
    prompts = [[5, 5, 5], [6, 6, 6], [7, 7, 7]]
    failures = 0

    def fail(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal failures
        if not failures and kwargs["past_key_values"].get_seq_length() == 3 + 2:
            failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.register_forward_pre_hook(fail, with_kwargs=True)
    with recorded(model) as passes:
        reported = Reports(lambda: failures)
        rollouts = CompactEngine().generate(request_for(model, prompts, 2, sampling, [1, 2, 3], on_completed=reported))
    hook.remove()
    assert failures == 1
    reported.assert_all_of(rollouts, 2)
    assert rollouts.lengths.tolist() == [2, 8, 3, 3, 8, 8]
    assert reported.positions[0] == 1
    assert reported.times == [0, 1, 1]
    read = [prompt for rows in passes if len(rows[0]) == 3 for prompt in rows]
    assert sorted(read) == [[5, 5, 5], [5, 5, 5], [6, 6, 6], [7, 7, 7], [7, 7, 7]]
