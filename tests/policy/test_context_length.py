"""How many tokens a model reads, and what does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoConfig,
    BloomConfig,
    GPT2Config,
    PreTrainedConfig,
    Qwen3Config,
)

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.policy import SeparateCritic
from bots_lightning.policy.loading import context_length

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Qwen3Config(max_position_embeddings=128), 128),
        (Qwen3Config(max_position_embeddings=64, rope_parameters=YARN), 256),
        (Qwen3Config(max_position_embeddings=512, rope_parameters=YARN), 512),
        (GPT2Config(n_positions=48), 48),
        (BloomConfig(), None),
    ],
)
def test_the_context_is_what_the_model_declares(config: PreTrainedConfig, expected: int | None, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    assert context_length(str(tmp_path)) == expected


def test_completions_beyond_the_context_are_refused_before_a_model_is_loaded(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots_lightning.policy.policy.load_policy", pytest.fail)
    with pytest.raises(ValueError, match=r"max_completion_length=128 leaves no room for a prompt in .* of 128 tokens"):
        build(GRPO, max_completion_length=128).configure_model()


def test_prompts_that_the_context_does_not_take_are_refused_before_training(
    build: Callable[..., Any], fit: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=r"tasks cannot be rolled out.* the context has room for 6 beside max_comple"):
        fit(build(GRPO, max_completion_length=122))


def test_a_critic_of_its_own_has_a_context_too(build: Callable[..., Any], checkpoint: str, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "short")
    config = AutoConfig.from_pretrained(checkpoint)
    config.max_position_embeddings = 24
    config.save_pretrained(tmp_path / "short")
    critic = SeparateCritic(str(tmp_path / "short"))
    assert build(PPO, critic=critic).algorithm.context_length() == 24
    assert build(PPO).algorithm.context_length() is None
    assert build(PPO).policy.context_length() == 128
    short = build(PPO, pretrained=str(tmp_path / "short"), critic=SeparateCritic(checkpoint), max_completion_length=24)
    with pytest.raises(ValueError, match=r"max_completion_length=24 leaves no room for a prompt in .* of 24 tokens"):
        short.configure_model()
    with pytest.raises(ValueError, match=r"max_completion_length=24 leaves no room for a prompt in .* of 24 tokens"):
        build(PPO, critic=critic, max_completion_length=24).configure_model()
