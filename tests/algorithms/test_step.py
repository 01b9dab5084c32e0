"""What the parts of a step share: seconds by phase, and tensors of other ranks."""

# Shapes: W ranks, R rows of a rank.

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from algorithm_helpers import step_context

from bots_lightning.algorithms import StepClock
from bots_lightning.algorithms.step import PHASES


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`passes(seconds)`: moves the clock on, which stands still otherwise."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_a_phase_interrupts_the_one_around_it(passes: Callable[[float], None]) -> None:
    clock = StepClock()
    passes(1)
    with clock.phase("rollout"):
        passes(10)
        with clock.phase("reward"):
            passes(100)
        passes(1_000)
    passes(10_000)
    with clock.phase("rollout"):
        passes(100_000)
    expected = dict.fromkeys(PHASES, 0.0) | {"rollout": 101_010, "reward": 100, "other": 10_001}
    assert clock.stop() == expected
    assert clock.running == "other"


def test_a_phase_that_fails_ends_too(passes: Callable[[float], None]) -> None:
    clock = StepClock()

    def fail() -> None:
        with clock.phase("rollout"):
            passes(2)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    passes(3)
    assert clock.stop() == dict.fromkeys(PHASES, 0.0) | {"rollout": 2, "other": 3}


def test_seconds_may_be_given_to_another_phase_and_none_is_lost(passes: Callable[[float], None]) -> None:
    clock = StepClock()
    with clock.phase("rollout"):
        passes(5)
    clock.move(2, "rollout", "reward")
    assert clock.stop() == dict.fromkeys(PHASES, 0.0) | {"rollout": 3, "reward": 2}


def test_gathered_parameters_count_as_waiting_and_what_is_done_with_them_does_not(
    passes: Callable[[float], None],
) -> None:
    context = step_context()
    with context.clock.phase("logprobs"), context.gathered_parameters():
        passes(7)
    assert context.clock.stop()["logprobs"] == 7


def test_a_single_process_gathers_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    context = step_context(all_gather=pytest.fail)
    rows = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(context.gather(rows), rows.unsqueeze(0))
    assert context.gather_rows(rows) is rows
    assert context.gather_if_several is None
    assert context.on_all_ranks(True)
    assert not context.on_all_ranks(False)


def test_ranks_with_different_numbers_of_rows_gather_all_of_them(on_two_ranks: Callable[[str], list[Any]]) -> None:
    mine, theirs = on_two_ranks("rows_of_different_numbers")
    assert mine == theirs
    assert mine == {
        "rewards": [0.0, 10.0, 11.0, 12.0],
        "pairs": [[0, 100], [10, 110], [11, 111], [12, 112]],
        "flags": [True, True, False, True],
        "none of the first": [10.0, 11.0, 12.0],
        "equal": [0.0, 1.0, 10.0, 11.0],
    }
