"""Engines of servers that fail quickly, and what their servers are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from rollout_helpers import request_for
from torch import nn

from bots_lightning.policy.loading import language_model
from bots_lightning.policy.logprobs import completion_logprobs
from bots_lightning.rollouts import Rollouts, SamplingParams, ServerEngine

PROMPTS = [[5, 6, 7], [8], [9, 10], [5, 6, 7]]
SEEDS = [1, 2, 3, 4]
SAMPLING = SamplingParams(max_completion_length=6, stop_token_ids=(1, 4, 9), pad_token_id=0)


def make_engine(folder: Path, *urls: str, **options: Any) -> ServerEngine:
    engine = ServerEngine(
        list(urls), str(folder / "adapters"), **{"timeout_seconds": 2.0, "patience_seconds": 10.0} | options
    )
    engine.pool.rest_seconds = 0.02
    return engine


def completed(
    engine: ServerEngine, policy: nn.Module, n: int = 4, sampling: SamplingParams = SAMPLING, version: int = 0
) -> Rollouts:
    engine.sync(policy, version)
    return engine.generate(request_for(language_model(policy), PROMPTS, n, sampling, SEEDS, policy_version=version))


def assert_logprobs_are_the_policys(policy: nn.Module, rollouts: Rollouts, temperature: float = 1.0) -> None:
    """Within 1e-4 nats, for every token of a completion."""
    with torch.no_grad():
        expected, _ = completion_logprobs(policy, rollouts, temperature)
    assert rollouts.logprobs is not None
    mask = rollouts.completion_mask
    torch.testing.assert_close(rollouts.logprobs[mask], expected[mask], atol=1e-4, rtol=0)


def send(url: str, path: str, **body: Any) -> None:
    urlopen(Request(url + path, json.dumps(body).encode()), timeout=5).read()


def calls(url: str) -> list[str]:
    return json.loads(urlopen(f"{url}/calls", timeout=5).read())
