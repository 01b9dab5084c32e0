"""Engines report each prompt once its completions have all ended, with the tokens that they return in the end."""

# P prompts, n completions each, R = P·n rows, T completion tokens.

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import MambaConfig, MambaForCausalLM, PreTrainedModel

from bots_lightning.policy.loading import LoRA, language_model, load_policy
from bots_lightning.rollouts import (
    CompactEngine,
    GenerateEngine,
    GenerationRequest,
    RolloutEngine,
    Rollouts,
    SamplingParams,
    ServerDialect,
    ServerEngine,
    SGLangDialect,
    VLLMDialect,
    completion_mask,
    decoding,
)
from bots_lightning.rollouts import compact as compact_module
from bots_lightning.rollouts import generate as generate_module
from bots_lightning.rollouts.completed import own_tokens
from bots_lightning.rollouts.noise import uniform_noise
from bots_lightning.rollouts.server_client import Server
from bots_lightning.rollouts.server_dialect import Completion

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


def request_for(
    model: Any, prompts: Any, n: int, sampling: SamplingParams, seeds: Any, **more: Any
) -> GenerationRequest:
    """n completions of every prompt."""
    return GenerationRequest(model, prompts, [n] * len(prompts), sampling, seeds, **more)


@pytest.fixture(params=BUILDERS, ids=NAMES)
def engine(request: pytest.FixtureRequest) -> RolloutEngine:
    return request.param()


class Reports:
    """What an engine reports, in order."""

    def __init__(self, when: Callable[[], Any] = lambda: None) -> None:
        self.calls: list[tuple[int, list[list[int]]]] = []
        self.times: list[Any] = []
        self.when = when

    def __call__(self, position: int, token_lists: list[list[int]]) -> None:
        self.calls.append((position, token_lists))
        self.times.append(self.when())

    @property
    def positions(self) -> list[int]:
        return [position for position, _ in self.calls]

    def assert_all_of(self, rollouts: Rollouts, n: int) -> None:
        """Each prompt once, with the rows of the result, n for each."""
        self.assert_each_of(rollouts, [n] * (len(rollouts) // n))

    def assert_each_of(self, rollouts: Rollouts, counts: list[int]) -> None:
        """Each prompt once, with the rows of the result, as many as its count."""
        pairs = zip(rollouts.completion_ids, rollouts.completion_mask, strict=True)
        rows = iter([ids[mask].tolist() for ids, mask in pairs])
        assert sorted(self.calls) == [(p, list(islice(rows, n))) for p, n in enumerate(counts)]
        assert list(rows) == []


def set_lengths(monkeypatch: pytest.MonkeyPatch, lengths: list[int]) -> SamplingParams:
    """Completions of these lengths, by noise: token 0 ends them, and is drawn where the noise is 0 and only there."""

    def noise(seeds: Any, counts: Any, length: int) -> Tensor:
        drawn = uniform_noise(seeds, counts, length) / 100 + 0.99
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


# --- what is reported -------------------------------------------------------------------------------------------------


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


# --- when -------------------------------------------------------------------------------------------------------------


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


# --- servers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def policy(checkpoint: str) -> nn.Module:
    policy = load_policy(checkpoint, LoRA(r=4, alpha=8)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, weight in policy.named_parameters():
        if ".default." in name:
            weight.data.normal_(0, 0.3, generator=generator)
    return policy


@pytest.mark.parametrize("dialect", [None, SGLangDialect()])
@pytest.mark.parametrize("temperature", [0, 1])
def test_the_server_engine_reports_of_each_prompt_what_it_returns(
    policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path, dialect: Any, temperature: float
) -> None:
    engine, reported = ServerEngine([servers.start(checkpoint)], str(tmp_path), dialect), Reports()
    sampling = SamplingParams(6, (1, 4, 9), pad_token_id=4, temperature=temperature)
    engine.sync(policy, 0)
    rollouts = engine.generate(request_for(language_model(policy), PROMPTS, 4, sampling, SEEDS, on_completed=reported))
    reported.assert_all_of(rollouts, 4)
    assert rollouts.finished.any()


@pytest.mark.parametrize("temperature", [0, 1])
def test_the_server_engine_reports_as_many_completions_as_were_asked_for(
    policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path, temperature: float
) -> None:
    engine, reported, counts = ServerEngine([servers.start(checkpoint)], str(tmp_path)), Reports(), [3, 1, 5, 2]
    sampling = SamplingParams(6, (1, 4, 9), pad_token_id=4, temperature=temperature)
    engine.sync(policy, 0)
    model = language_model(policy)
    rollouts = engine.generate(GenerationRequest(model, PROMPTS, counts, sampling, SEEDS, on_completed=reported))
    reported.assert_each_of(rollouts, counts)


class Verbose(ServerDialect):
    """A vLLM whose completions go on behind their ends."""

    def __init__(self) -> None:
        self.plain = VLLMDialect()

    def load(self, server: Server, adapter: Any) -> None:
        self.plain.load(server, adapter)

    def unload(self, server: Server, adapter: Any) -> None:
        self.plain.unload(server, adapter)

    def complete(self, server: Server, *args: Any) -> list[Completion]:
        completions = self.plain.complete(server, *args)
        return [Completion([*c.tokens, 7, 1, 7], [*c.logprobs, *[float("nan")] * 3]) for c in completions]


def test_what_a_server_gives_beyond_the_end_is_neither_reported_nor_returned(
    policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path
) -> None:
    urls = [servers.start(checkpoint)]
    rollouts = []
    for dialect in (VLLMDialect(), Verbose()):
        engine, reported = ServerEngine(urls, str(tmp_path), dialect), Reports()
        engine.sync(policy, 0)
        rollouts.append(
            engine.generate(request_for(language_model(policy), PROMPTS, 4, SAMPLING, SEEDS, on_completed=reported))
        )
        reported.assert_all_of(rollouts[-1], 4)
    assert torch.equal(rollouts[0].completion_ids, rollouts[1].completion_ids)
    assert 0 < int(rollouts[0].finished.sum()) < len(rollouts[0])


def test_the_server_engine_reports_an_answer_before_it_asks_for_the_next(
    policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path
) -> None:
    url = servers.start(checkpoint)

    def asked() -> int:
        calls = json.loads(urlopen(f"{url}/calls", timeout=5).read())
        return sum(call.startswith("/v1/completions") for call in calls)

    engine, reported = ServerEngine([url], str(tmp_path), requests_per_server=1), Reports(asked)
    engine.sync(policy, 0)
    engine.generate(request_for(language_model(policy), PROMPTS, 2, SAMPLING, SEEDS, on_completed=reported))
    assert reported.positions == [0, 1, 2, 3]
    assert reported.times == [1, 2, 3, 4]


def test_the_server_engine_raises_what_the_listener_raises(
    policy: nn.Module, servers: Any, checkpoint: str, tmp_path: Path
) -> None:
    engine, error = ServerEngine([servers.start(checkpoint)], str(tmp_path)), OSError("no room")

    def fail(position: int, token_lists: list[list[int]]) -> None:
        raise error

    engine.sync(policy, 0)
    with pytest.raises(OSError, match="no room") as caught:
        engine.generate(request_for(language_model(policy), PROMPTS, 2, SAMPLING, SEEDS, on_completed=fail))
    assert caught.value is error
