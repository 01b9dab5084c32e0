"""TRL's trainers, for tests that compare with them."""

# Shapes: R rows, L prompt tokens, T completion tokens.

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl_helpers import (
    LENGTHS,
    MAX_COMPLETION_LENGTH,
)


@pytest.fixture(scope="module")
def trl() -> Iterator[Any]:
    """The library; random generators, and the environment that it and what it imports write to, are put back."""
    environment = dict(os.environ)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield pytest.importorskip("trl", reason="TRL is not installed; pip install trl to compare with it")
    random.setstate(states[0])
    np.random.set_state(states[1])
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module")
def trainer_of(trl: Any, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """One of TRL's trainers, of "GRPO" or "RLOO", with a policy in float64; options are those of its config."""
    datasets = pytest.importorskip("datasets", reason="TRL needs datasets")

    @cache
    def build(algorithm: str, **options: Any) -> Any:
        defaults = {"per_device_train_batch_size": len(LENGTHS), "num_generations": 4, "beta": 0.0}
        config = getattr(trl, f"{algorithm}Config")(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            report_to="none",
            max_completion_length=MAX_COMPLETION_LENGTH,
            **defaults | options,
        )
        trainer = getattr(trl, f"{algorithm}Trainer")(
            model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64),
            reward_funcs=preset_rewards,
            args=config,
            train_dataset=datasets.Dataset.from_dict({"prompt": ["1+2="], "reward": [0.0]}),
            processing_class=AutoTokenizer.from_pretrained(checkpoint),
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1  # set by the training loop
        return trainer

    return build


def preset_rewards(reward: list[float | None], **_: Any) -> list[float | None]:
    """A reward function: that of the dataset's column."""
    return reward
