"""The clock of a step and an accelerator, which works on while Python goes ahead."""

from __future__ import annotations

import pytest
import torch

from bots_lightning.algorithms import StepClock


class Time:
    """In place of the machine's."""

    def __init__(self) -> None:
        self.now = 0.0

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    moved = Time()
    monkeypatch.setattr("bots_lightning.algorithms.step.time.perf_counter", lambda: moved.now)
    return moved


def seconds_of(clock: StepClock) -> dict[str, float]:
    return {phase: seconds for phase, seconds in clock.stop().items() if seconds}


def test_only_a_phase_that_names_an_accelerator_waits_for_it(clock_time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []

    def synchronize(device: torch.device) -> None:
        waited.append(device)
        clock_time.passes(7)  # of work that was left behind

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    clock, cuda = StepClock(), torch.device("cuda", 0)
    for phase, device in (("backward", None), ("logprobs", torch.device("cpu")), ("optimizer", cuda)):
        with clock.phase(phase, device):
            clock_time.passes(1)
    assert waited == [cuda]
    assert seconds_of(clock) == {"backward": 1, "logprobs": 1, "optimizer": 1 + 7}
