"""Fixtures of policies, algorithms and training: tiny modules, short runs, and rollouts made by hand."""

# Shapes: R rows, L prompt tokens, T completion tokens.

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA, Policy
from bots_lightning.rewards import Scorer
from bots_lightning.rollouts import Rollouts
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import Evaluation, OnlineModule, Sampler, Updater


def share_of_a(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Something that a random model does now and then: writing the letter a."""
    return [float("a" in completion) for completion in completions]


class History(Callback):
    """Keeps what every iteration returned and logged, and the weights after it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        trainer, module, step, *_ = args
        self.steps.append(step)
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self.weights.append({name: weight.detach().clone() for name, weight in trained.items()})

    def __getitem__(self, name: str) -> list[float]:
        return [logged[name] for logged in self.logged]


@dataclass
class Run:
    """A run that has ended."""

    history: History
    trainer: Trainer
    tasks: TaskDataModule


# Options of tests that would be too common a word without their part.
RENAMED = {"eval_num_generations": ("evaluation", "num_generations"), "eval_pass_k": ("evaluation", "pass_k")}
PARTS = {"policy": Policy, "scorer": Scorer, "sampler": Sampler, "optimizer": Updater, "evaluation": Evaluation}


def place_of(option: str, algorithm: Any) -> tuple[str, str]:
    """The part that has an option, and its name there."""
    if option in RENAMED:
        return RENAMED[option]
    parts = PARTS | {"algorithm": algorithm, "module": OnlineModule}
    found = [part for part, kind in parts.items() if option in inspect.signature(kind).parameters]
    assert found, f"no part has the option {option}"
    return found[0], option


@pytest.fixture
def build(checkpoint: str) -> Callable[..., Any]:
    """`build(GRPO, **options)`: a module on the tiny policy; each option goes to the part that has it."""

    def build(algorithm: Any, **overrides: Any) -> OnlineModule:
        defaults: dict[str, Any] = {
            "pretrained": checkpoint,
            "reward_funcs": [share_of_a],
            "lora": LoRA(r=4, alpha=8),
            "num_generations": 4,
            "max_prompt_length": 32,
            "max_completion_length": 6,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "eval_num_generations": 2,
        }
        options: dict[str, dict[str, Any]] = {part: {} for part in (*PARTS, "algorithm", "module")}
        for option, value in (defaults | overrides).items():
            part, name = place_of(option, algorithm)
            options[part][name] = value
        parts = {part: kind(**options[part]) for part, kind in PARTS.items()}
        return OnlineModule(**parts, algorithm=algorithm(**options["algorithm"]), **options["module"])

    return build


@pytest.fixture
def new_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """`new_trainer(**overrides)`: a quiet one, on the CPU."""

    def new_trainer(**overrides: Any) -> Trainer:
        options: dict[str, Any] = {
            "default_root_dir": tmp_path,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "max_epochs": 1,
        }
        return Trainer(**options | overrides)

    return new_trainer


@pytest.fixture
def fit(new_trainer: Callable[..., Trainer]) -> Callable[..., Run]:
    """`fit(module, iterations)`: a run of so many iterations, skipped optimizer steps or not."""

    def fit(
        module: Any,
        iterations: int = 1,
        batch_size: int = 4,
        evaluation: Any = None,
        ckpt_path: str | None = None,
        callbacks: Sequence[Callback] = (),
        **overrides: Any,
    ) -> Run:
        tasks = TaskDataModule(ProceduralTasks(24), UniformSelector(), batch_size, evaluation, steps_per_epoch=100)
        history = History()
        overrides = {"limit_train_batches": iterations, "callbacks": [history, *callbacks]} | overrides
        trainer = new_trainer(**overrides)
        trainer.fit(module, tasks, ckpt_path=ckpt_path)
        return Run(history, trainer, tasks)

    return fit


@pytest.fixture
def make_rollouts() -> Callable[..., Rollouts]:
    """`make_rollouts(completions, prompts)`: random tokens in rows of the given lengths; rows of 0 are all masked."""

    def make_rollouts(completions: Sequence[int], prompts: Sequence[int], seed: int = 0) -> Rollouts:
        generator = torch.Generator().manual_seed(seed)
        rows, length, width = len(completions), max(completions), max(prompts)
        prompt_mask = torch.arange(width) >= width - torch.tensor(prompts).unsqueeze(1)
        mask = torch.arange(length) < torch.tensor(completions).unsqueeze(1)
        prompt_ids = torch.randint(2, 12, (rows, width), generator=generator) * prompt_mask
        ids = torch.randint(2, 12, (rows, length), generator=generator) * mask
        finished = torch.tensor(completions) < length
        return Rollouts(prompt_ids, prompt_mask, ids, mask, finished, 0)

    return make_rollouts


@pytest.fixture
def shake() -> Callable[..., None]:
    """`shake(module)`: moves every weight that trains, so that no adapter or head is 0."""

    def shake(module: nn.Module, std: float = 0.05, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in module.parameters():
                if weight.requires_grad:
                    weight += std * torch.randn(weight.shape, generator=generator).to(weight)

    return shake
