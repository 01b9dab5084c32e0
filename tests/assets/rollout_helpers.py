"""What many tests of rollouts need: requests, the tokens of rollouts, and what engines report."""

# P prompts, n completions each, R rows.

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

from bots_lightning.rollouts import (
    CompactEngine,
    GenerationRequest,
    Rollouts,
    RolloutsCancelledError,
    SamplingParams,
    ServerEngine,
)

SECONDS = 20.0  # longer than anything here takes; only a test that fails waits so long


def request_for(
    model: Any, prompts: Any, n: int, sampling: SamplingParams, seeds: Any, **more: Any
) -> GenerationRequest:
    """n completions of every prompt."""
    return GenerationRequest(model, prompts, [n] * len(prompts), sampling, seeds, **more)


def rows_of(rollouts: Rollouts) -> list[list[int]]:
    rows = zip(rollouts.completion_ids, rollouts.completion_mask, strict=True)
    return [ids[mask].tolist() for ids, mask in rows]


def assert_same(seen: Rollouts, expected: Rollouts) -> None:
    """The same tokens, and log-probabilities except for rounding."""
    assert rows_of(seen) == rows_of(expected)
    torch.testing.assert_close(seen.logprobs, expected.logprobs, atol=1e-4, rtol=0, equal_nan=True)


def moved(policy: nn.Module, seed: int) -> nn.Module:
    """The policy after what might have been an update."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in policy.named_parameters():
        if ".default." in name:
            weight.data.normal_(0, 0.3, generator=generator)
    return policy


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


class Gate:
    """Something that waits for leave to go on, once it is closed; notes that it has come so far."""

    def __init__(self) -> None:
        self.reached, self.leave = threading.Event(), threading.Event()
        self.leave.set()

    def close(self) -> None:
        self.reached.clear()
        self.leave.clear()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.leave.wait(SECONDS)

    def cancel_there(self, engine: CompactEngine | ServerEngine) -> None:
        """Cancels once the gate is reached, and opens it."""
        assert self.reached.wait(SECONDS)
        engine.cancel()
        self.leave.set()


def begin(generate: Callable[[], Rollouts]) -> Future[Rollouts]:
    """What a thread of its own generates."""
    future: Future[Rollouts] = Future()

    def run() -> None:
        try:
            future.set_result(generate())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def assert_cancelled(generated: Future[Rollouts]) -> None:
    with pytest.raises(RolloutsCancelledError, match="cancelled before all completions had ended"):
        generated.result(SECONDS)


def assert_equal(rollouts: Rollouts, expected: Rollouts) -> None:
    assert torch.equal(rollouts.completion_ids, expected.completion_ids)
    assert torch.equal(rollouts.completion_mask, expected.completion_mask)
