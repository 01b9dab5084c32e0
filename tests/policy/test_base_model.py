"""Weights are not put on top of another model than the one that they were trained on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoConfig, AutoModelForCausalLM

from bots_lightning.algorithms import GRPO
from bots_lightning.commands.export import load_module
from bots_lightning.policy import LoRA
from bots_lightning.policy.base_model import base_digest, check_base
from bots_lightning.policy.loading import load_policy


@pytest.fixture
def other(checkpoint: str, tmp_path: Path) -> str:
    """A model of the same shapes, one layer of which is further trained."""
    shutil.copytree(checkpoint, tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.05)
    model.save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


def test_one_base_has_one_digest_in_any_dtype(checkpoint: str, other: str) -> None:
    digests = {
        base_digest(load_policy(checkpoint, LoRA(r=4, alpha=8), dtype, seed=seed))
        for dtype, seed in (("float32", 0), ("float32", 1), ("bfloat16", 0))
    }
    assert len(digests) == 1
    assert base_digest(load_policy(other, LoRA(r=4, alpha=8))) not in digests


@pytest.mark.parametrize("change", [{"rms_norm_eps": 0.1}, {"hidden_act": "relu"}])
def test_another_config_is_another_base(change: dict[str, Any], checkpoint: str, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "other")
    config = AutoConfig.from_pretrained(checkpoint)
    for name, value in change.items():
        setattr(config, name, value)
    config.save_pretrained(tmp_path / "other")
    digests = [base_digest(load_policy(folder, LoRA(r=4, alpha=8))) for folder in (checkpoint, str(tmp_path / "other"))]
    assert digests[0] != digests[1]


def test_full_finetuning_replaces_the_base(checkpoint: str, other: str) -> None:
    """Its checkpoints hold every weight."""
    assert base_digest(load_policy(checkpoint)) == base_digest(load_policy(other))


def test_checkpoints_of_earlier_versions_are_accepted() -> None:
    check_base(None, "digest", "model")


def test_resuming_on_another_base_is_refused(checkpoint: str, other: str, build: Any, fit: Any, tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, save_last=True)
    fit(build(GRPO), 1, callbacks=[save], enable_checkpointing=True)
    path = tmp_path / "last.ckpt"
    fit(build(GRPO), 2, ckpt_path=str(path))
    message = rf"on top of another model: its base, {checkpoint}, has other weights .* than {other}\. Name that"
    with pytest.raises(ValueError, match=message):
        fit(build(GRPO, pretrained=other), 2, ckpt_path=str(path))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {{policy: {{pretrained: {other}, lora: {{r: 4, alpha: 8}}}}, "
        "scorer: {reward_funcs: [bots_lightning.rewards.exact_match]}, sampler: {max_completion_length: 8}, "
        "algorithm: {class_path: bots_lightning.algorithms.GRPO}, optimizer: {}, evaluation: {}}"
    )
    with pytest.raises(ValueError, match="on top of another model"):
        load_module(path, config)
