"""The server engine reports each prompt as its answer comes, with the tokens that it returns in the end."""

# P prompts, n completions each.

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from rollout_helpers import Reports, request_for
from torch import nn

from bots_lightning.policy.loading import language_model
from bots_lightning.rollouts import (
    GenerationRequest,
    SamplingParams,
    ServerDialect,
    ServerEngine,
    SGLangDialect,
    VLLMDialect,
)
from bots_lightning.rollouts.server_client import Server
from bots_lightning.rollouts.server_dialect import Completion

PROMPTS = [[5, 6, 7], [8], [9, 10], [5, 6, 7]]
SEEDS = [1, 2, 3, 4]
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1, 4), pad_token_id=4)


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
    probed = reported.times[0] - 1
    assert [at - probed for at in reported.times] == [1, 2, 3, 4]


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
