"""Code rewards with short limits, in every mode that this machine can offer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bots_lightning.rewards.code import CodeReward, SandboxError

Grade = Callable[..., float | None]


@cache
def has_bubblewrap() -> bool:
    try:
        CodeReward()
    except SandboxError:
        return False
    return True


@pytest.fixture(params=["bubblewrap", "unisolated"])
def make_reward(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Makes code rewards of one mode; afterwards nothing of theirs is left in the folder for temporary files."""
    if request.param == "bubblewrap" and not has_bubblewrap():
        pytest.skip("bubblewrap cannot start a sandbox here")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def make(**options: Any) -> CodeReward:
        with monkeypatch.context() as patch:
            if request.param == "unisolated":
                patch.setenv("PATH", "/nonexistent")
            limits = {"timeout_seconds": 8.0, "cpu_seconds": 4, "memory_mb": 256, "max_file_mb": 4, "num_workers": 1}
            reward = CodeReward(**{**limits, **options}, allow_unisolated=True)
        assert (reward.sandbox.bubblewrap is None) == (request.param == "unisolated")
        return reward

    yield make
    assert list(folder.iterdir()) == []


@pytest.fixture
def reward(make_reward: Any) -> CodeReward:
    return make_reward()


@pytest.fixture
def grade(reward: CodeReward) -> Grade:
    """The reward of one program, given the tests as an object for JSON or as code."""

    def score(program: str, tests: Any, prompt: Any = "?", **columns: Any) -> float | None:
        answer = tests if isinstance(tests, str) else json.dumps(tests)
        lists = {name: [value] for name, value in columns.items()}
        return reward([prompt], [f"```python\n{program}\n```"], [answer], **lists)[0]

    return score
