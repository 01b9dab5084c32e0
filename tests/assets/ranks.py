"""Trains a tiny policy under one strategy after another and writes what each run did; started by `torchrun` or alone.

    torchrun --nproc_per_node 2 tests/assets/ranks.py CHECKPOINT OUTPUT.json ddp zero1 zero2 zero3
    python tests/assets/ranks.py CHECKPOINT OUTPUT.json single

Completions depend on the prompt, its number and the iteration alone: any number of ranks learns from the same ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from bots_lightning.algorithms import GRPO, PPO, LoRA
from bots_lightning.beliefs import BetaBelief
from bots_lightning.checkpoints import AtomicCheckpointIO
from bots_lightning.data import TaskDataModule
from bots_lightning.rollouts import RolloutEngine, Rollouts, completion_mask
from bots_lightning.rollouts.generate import pad_left
from bots_lightning.selection import ThompsonSelector
from bots_lightning.strategies import DataParallel, DeepSpeed, whole_model
from bots_lightning.tasks import ProceduralTasks

STEPS = 3
STRATEGIES = {
    "single": lambda: "auto",
    "ddp": DataParallel,
    "zero1": lambda: DeepSpeed(1),
    "zero2": lambda: DeepSpeed(2),
    "zero3": lambda: DeepSpeed(3),
    "zero3_offload": lambda: DeepSpeed(3, offload_optimizer=True, offload_parameters=True),
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo-lora": {"lora": LoRA(r=4, alpha=8)},
    "grpo-full": {"lora": None, "kl_coef": 0.1},
    "grpo-parts": {"lora": LoRA(r=4, alpha=8), "max_tokens_per_microbatch": 60, "loss_type": "dapo"},
    "grpo-recomputed": {"lora": LoRA(r=4, alpha=8), "gradient_checkpointing": True},
    "grpo-faulty": {"lora": LoRA(r=4, alpha=8)},
    "ppo-lora": {"lora": LoRA(r=4, alpha=8), "kl_coef": 0.1, "num_ppo_epochs": 2},
    "ppo-full": {"lora": None, "num_ppo_epochs": 2},
}


class HashedEngine(RolloutEngine):
    """Completions of pseudo-random tokens and lengths, a function of prompt, number and iteration."""

    def generate(
        self, model: Any, prompts: Sequence[Sequence[int]], n: int, sampling: Any, seed: int, policy_version: int = 0
    ) -> Rollouts:
        prompt_ids, prompt_mask = pad_left(prompts, sampling.pad_token_id, torch.device("cpu"))
        rows = [self._tokens(prompt, j, policy_version, sampling) for prompt in prompts for j in range(n)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [sampling.pad_token_id] * (width - len(row)) for row in rows])
        mask, finished = completion_mask(ids, sampling.stop_token_ids)
        repeated = (tensor.repeat_interleave(n, dim=0) for tensor in (prompt_ids, prompt_mask))
        return Rollouts(*repeated, ids, mask, finished, policy_version)

    @staticmethod
    def _tokens(prompt: Sequence[int], number: int, version: int, sampling: Any) -> list[int]:
        digest = hashlib.sha256(repr((list(prompt), number, version)).encode()).digest()
        length = 1 + digest[0] % (sampling.max_completion_length - 1)
        return [3 + byte % 30 for byte in digest[1:length]] + [sampling.stop_token_ids[0]]


class Faulty(GRPO):
    """The last rank's loss is NaN in the second iteration."""

    def losses(self, *args: Any) -> Iterator[torch.Tensor]:
        """Those of GRPO, but for that one."""
        at_fault = self.progress.iterations == 1 and self.global_rank == self.trainer.world_size - 1
        for loss in super().losses(*args):
            yield loss * (torch.nan if at_fault else 1.0)


class Diary(Callback):
    """Losses, draws and gradient norms of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        names = ("loss", "grad_norm", "reward", "entropy")
        figures = {name: float(trainer.callback_metrics[name]) for name in names}
        draws: list[list[int]] = [batch.indices]
        if trainer.world_size > 1:
            draws = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(draws, batch.indices)
        interleaved = [index for together in zip(*draws, strict=True) for index in together]
        self.steps.append(figures | {"draws": interleaved})


def letters(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """1 for completions with an early letter in them."""
    return [float(any(letter in completion for letter in "abcd")) for completion in completions]


def fit(
    module: Any, strategy: str, steps: int, folder: str | Path, callbacks: list[Callback], path: Path | None = None
) -> Trainer:
    """A run of so many steps on all ranks of this program, from a checkpoint if there is a path; its trainer."""
    data = TaskDataModule(ProceduralTasks(24), ThompsonSelector(BetaBelief()), batch_size=4, steps_per_epoch=steps)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        strategy=STRATEGIES[strategy](),
        plugins=[AtomicCheckpointIO()],
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
    )
    trainer.fit(module, data, ckpt_path=path)
    return trainer


def run(checkpoint: str, strategy: str, name: str, folder: str) -> dict[str, Any]:
    """One run: the diary, the posterior, and the trained weights."""
    algorithm = PPO if name.startswith("ppo") else Faulty if name == "grpo-faulty" else GRPO
    options = {"learning_rate": 3e-3, "lr_scheduler_type": "constant", "num_generations": 4} | ALGORITHMS[name]
    module = algorithm(
        checkpoint, [letters], engine=HashedEngine(), max_prompt_length=32, max_completion_length=8, **options
    )
    diary = Diary()
    trainer = fit(module, strategy, STEPS, folder, [diary])
    with whole_model(trainer.strategy):
        weights = {n: w.detach().flatten().tolist() for n, w in module.named_parameters() if w.requires_grad}
    posterior = trainer.datamodule.selector.belief.mean().tolist()
    return {"steps": diary.steps, "posterior": posterior, "weights": weights}


def main(checkpoint: str, output: str, *strategies: str) -> None:
    """Runs all algorithms under each strategy."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = {s: {name: run(checkpoint, s, name, folder) for name in ALGORITHMS} for s in strategies}
    if int(os.environ.get("RANK", 0)) == 0:
        Path(output).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
