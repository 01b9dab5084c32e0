"""Trains a tiny policy under one strategy after another and writes what each run did; started by `torchrun` or alone.

torchrun --nproc_per_node 2 tests/assets/ranks.py CHECKPOINT OUTPUT.json ddp zero1=grpo-lora,ppo-full zero2
python tests/assets/ranks.py CHECKPOINT OUTPUT.json single
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from allocations import InTurn
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from bots_lightning.algorithms import GRPO, PPO, Algorithm, StepContext
from bots_lightning.allocation import Allocation, SequentialAllocation
from bots_lightning.beliefs import BetaBelief
from bots_lightning.checkpoints import AtomicCheckpointIO
from bots_lightning.data import TaskDataModule
from bots_lightning.policy import LoRA, Policy
from bots_lightning.rewards import Scorer
from bots_lightning.rollouts import RolloutEngine, ServerEngine
from bots_lightning.selection import ThompsonSelector
from bots_lightning.strategies import DataParallel, DeepSpeed, gathered_parameters
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import Evaluation, OnlineModule, Sampler, StepFailedError, Updater
from callbacks import GracefulStop

STEPS = 3
LORA = LoRA(r=4, alpha=8)
RANK, WORLD_SIZE = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
STRATEGIES = {
    "single": lambda: "auto",
    "ddp": DataParallel,
    "zero1": lambda: DeepSpeed(1),
    "zero2": lambda: DeepSpeed(2),
    "zero3": lambda: DeepSpeed(3),
    "zero3_offload": lambda: DeepSpeed(3, offload_optimizer=True, offload_parameters=True),
}


class Faulty(GRPO):
    """The last rank's loss is NaN in the second iteration."""

    def losses(self, *args: Any) -> Iterator[torch.Tensor]:
        """Those of GRPO, except for that one."""
        at_fault = _in_second_iteration_of_last_rank(args[-1])
        for loss in super().losses(*args):
            yield loss * (torch.nan if at_fault else 1.0)


class OutOfMemory(GRPO):
    """The last rank lacks memory for a whole minibatch in the second iteration."""

    def losses(self, *args: Any) -> Iterator[torch.Tensor]:
        """Those of GRPO; the error comes when a gradient is there already."""
        yield from super().losses(*args)
        if _in_second_iteration_of_last_rank(args[-1]) and self.policy.max_tokens_per_microbatch is None:
            raise torch.OutOfMemoryError("CUDA out of memory")


def _in_second_iteration_of_last_rank(context: StepContext) -> bool:
    return context.progress.iterations == 1 and context.rank == context.world_size - 1


def letters(completions: list[str], **_: Any) -> list[float]:
    """1 for completions with an early letter in them."""
    return [float(any(letter in completion for letter in "abcd")) for completion in completions]


class Failing:
    """`letters`, which fails on the last rank in the second iteration, once."""

    calls = 0

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        """Those of `letters`, except for that one."""
        Failing.calls += 1
        if Failing.calls == 2 and RANK == WORLD_SIZE - 1:
            raise ConnectionError("no grader is left")
        return letters(completions)


class Recipe(NamedTuple):
    """What a run trains with.

    Attributes:
        algorithm: makes it.
        lora: of the policy.
        budget: tokens of a micro-batch.
        checkpointing: of gradients.
        max_staleness: of rollouts.
        reward: the reward function.
        allocation: of the rollouts.
        num_generations: on average.
        engine: makes it, given a folder.
    """

    algorithm: Callable[[], Algorithm] = GRPO
    lora: LoRA | None = LORA
    budget: int | None = None
    checkpointing: bool = False
    max_staleness: int = 0
    reward: Callable[..., list[float]] = letters
    allocation: Allocation | None = None
    num_generations: int = 4
    engine: Callable[[Path], RolloutEngine | None] = lambda folder: None


def servers(folder: Path) -> RolloutEngine:
    """Those that the environment names."""
    return ServerEngine(os.environ["SERVERS"].split(), str(folder))


RECIPES = {
    "grpo-lora": Recipe(),
    "grpo-full": Recipe(lambda: GRPO(kl_coef=0.1), lora=None),
    "grpo-microbatches": Recipe(lambda: GRPO(loss_type="dapo"), budget=60),
    "grpo-recomputed": Recipe(checkpointing=True),
    "grpo-faulty": Recipe(Faulty),
    "grpo-failing": Recipe(reward=Failing()),
    "grpo-out-of-memory": Recipe(OutOfMemory),
    "grpo-asynchronous": Recipe(lambda: GRPO(num_iterations=2), lora=None, max_staleness=2),
    # In full: adapters begin with gradients of nearly 0, which Adam turns into steps of any size.
    "grpo-ragged": Recipe(lambda: GRPO(loss_type="grpo"), None, budget=60, allocation=InTurn(), num_generations=7),
    "grpo-rounds": Recipe(allocation=SequentialAllocation(2, max_generations=4, min_chance=0.0)),
    "grpo-servers": Recipe(lora=None, engine=servers),
    "grpo-servers-ahead": Recipe(lora=None, engine=servers, max_staleness=1),
    "ppo-lora": Recipe(lambda: PPO(kl_coef=0.1, num_ppo_epochs=2)),
    "ppo-full": Recipe(lambda: PPO(num_ppo_epochs=2), lora=None),
    "ppo-ragged": Recipe(lambda: PPO(num_ppo_epochs=2), None, allocation=InTurn(), num_generations=7),
}
# A backward pass cannot be made again by one rank of DeepSpeed; under ZeRO-3 there are no full weights to copy.
NOT_UNDER = {
    "grpo-out-of-memory": ("zero1", "zero2", "zero3", "zero3_offload"),
    "grpo-asynchronous": ("zero3", "zero3_offload"),
}


def module_of(recipe: Recipe, checkpoint: str, folder: Path, **schedule: Any) -> OnlineModule:
    """The module of a recipe, with a folder for the weights that servers get; `schedule` is of the `Updater`."""
    engine = recipe.engine(folder / "weights")
    return OnlineModule(
        Policy(
            checkpoint,
            recipe.lora,
            gradient_checkpointing=recipe.checkpointing,
            max_tokens_per_microbatch=recipe.budget,
        ),
        Scorer([recipe.reward]),
        Sampler(recipe.num_generations, 32, max_completion_length=8, engine=engine, max_staleness=recipe.max_staleness),
        recipe.algorithm(),
        Updater(learning_rate=3e-3, **schedule),
        Evaluation(),
        check_ranks_every=1,
    )


class Diary(Callback):
    """Losses, draws and gradient norms of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        names = ("loss", "grad_norm", "reward", "entropy")
        metrics = {name: float(trainer.callback_metrics[name]) for name in names}
        shares = [list(zip(batch.positions, batch.indices, strict=True))]
        if trainer.world_size > 1:
            shares = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(shares, list(zip(batch.positions, batch.indices, strict=True)))
        draws = [index for _, index in sorted(place for share in shares for place in share)]
        self.steps.append(metrics | {"draws": draws})


def fit(
    module: OnlineModule,
    allocation: Allocation | None,
    strategy: str,
    steps: int,
    folder: str | Path,
    callbacks: list[Callback],
    path: Path | None = None,
) -> Trainer:
    """A run of so many steps on all ranks of this program, from a checkpoint if there is a path; its trainer."""
    selector = ThompsonSelector(BetaBelief())
    data = TaskDataModule(ProceduralTasks(24), selector, 4, steps_per_epoch=steps, allocation=allocation)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=WORLD_SIZE,
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


def run(checkpoint: str, strategy: str, name: str, folder: Path) -> dict[str, Any]:
    """One run: the diary, the posterior, and the trained weights."""
    recipe, diary, path = RECIPES[name], Diary(), None

    def trained(callbacks: list[Callback], path: Path | None) -> Trainer:
        module = module_of(recipe, checkpoint, folder, lr_scheduler_type="constant")
        return fit(module, recipe.allocation, strategy, STEPS, folder, callbacks, path)

    if name == "grpo-failing":
        with suppress(StepFailedError):
            trained([diary, GracefulStop()], None)
        path = folder / "checkpoints" / "last.ckpt"
    trainer = trained([diary], path)
    module: Any = trainer.lightning_module
    with gathered_parameters(trainer.strategy):
        weights = {n: w.detach().flatten().tolist() for n, w in module.named_parameters() if w.requires_grad}
    posterior = trainer.datamodule.selector.belief.mean().tolist()
    rollouts = module.progress.rollouts
    return {"steps": diary.steps, "posterior": posterior, "weights": weights, "rollouts": rollouts}


def main(checkpoint: str, output: str, *chosen: str) -> None:
    """Runs recipes under each strategy: those that are named behind it, or all."""
    torch.set_num_threads(1)
    folder, results = Path(output).with_suffix(""), {}
    for strategy, _, names in (word.partition("=") for word in chosen):
        Failing.calls = 0
        results[strategy] = {
            name: run(checkpoint, strategy, name, folder / strategy / name)
            for name in (names.split(",") if names else RECIPES)
            if strategy not in NOT_UNDER.get(name, ())
        }
    if RANK == 0:
        Path(output).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
