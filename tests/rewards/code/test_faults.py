"""Tests that no program could pass are found at the start of a run, and counted as errors in it."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from bots_lightning.rewards.code import CodeReward
from bots_lightning.rewards.code import faults as faults_module
from bots_lightning.rewards.graded import Outcomes
from bots_lightning.tasks import Task


@pytest.fixture(scope="module")
def reward() -> CodeReward:
    return CodeReward(num_workers=1, allow_unisolated=True)


def fault(reward: CodeReward, answer: Any, **columns: Any) -> str:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return reward.fault(Task("t-1", "?", text, columns=columns)) or ""


@pytest.mark.parametrize(
    "answer",
    [
        {"inputs": ["1"], "outputs": ["1" * 2**21]},
        {"inputs": [[1]], "outputs": [1], "fn_name": "f"},
        ["assert f(1) == 1"],
        "import math, collections.abc\nassert f(1) == math.pi",
        "import numpy\nassert f(1) == 1",  # which nothing uses
        {"pytest": "from solution import f\ndef test_f():\n    assert f(1) == 1"},
    ],
)
def test_sound_tests_have_no_fault(reward: CodeReward, answer: Any) -> None:
    assert fault(reward, answer) == ""


@pytest.mark.parametrize(
    ("answer", "columns", "parts"),
    [
        ("assert f(", {}, ["'t-1'", "SyntaxError", "expected JSON"]),
        ("", {}, ["there are none"]),
        ("import numpy as np\nassert np.allclose(f(1), 1)", {}, ["import numpy", "`packages`"]),
        ("assert f(1)", {"extra_info": {"prefix": "import pandas, numpy"}}, ["import numpy, pandas"]),
        ({"inputs": [[1]], "outputs": [1], "fn_name": "f"}, {"extra_info": {"prefix": "import numpy"}}, ["numpy"]),
        ("assert 1 + 1 == 2", {}, ["entry_point"]),
    ],
)
def test_a_fault_says_what_is_wrong_and_what_to_do(
    reward: CodeReward, answer: Any, columns: dict[str, Any], parts: list[str]
) -> None:
    found = fault(reward, answer, **columns)
    assert [part for part in parts if part not in found] == []


def test_calls_too_large_to_be_passed_are_a_fault(reward: CodeReward, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = {"inputs": [["x" * 1000]], "outputs": ["x"], "fn_name": "f"}
    assert fault(reward, tests) == ""
    monkeypatch.setattr(faults_module, "MAX_MESSAGE", 1000)
    assert "a call take 1011 bytes; expected at most 1000" in fault(reward, tests)


def test_it_takes_little_time(reward: CodeReward) -> None:
    task = Task("t", "?", json.dumps([f"assert f({i}) == {i}" for i in range(3)]))
    durations = []
    for _ in range(10):
        started = time.process_time()
        assert reward.fault(task) is None
        durations.append(time.process_time() - started)
    assert min(durations) < 0.005


def test_programs_of_such_a_task_are_errors_and_the_log_names_it_once(
    reward: CodeReward, caplog: pytest.LogCaptureFixture
) -> None:
    answers = ["import numpy as np\nassert np.allclose(f(1), 1)", "assert f(1) == 1"]
    program = "def f(x): return x"
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            scores = reward(["?"] * 3, [program] * 3, [answers[0], *answers], task_id=["a-1", "a-1", "b-2"])
        assert scores == [0, 0, 1]
        assert reward.outcomes == Outcomes(items=3, errors=2)
    (message,) = caplog.messages
    assert message.startswith("task 'a-1': the tests import numpy")
