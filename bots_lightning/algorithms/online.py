"""Learning online: what every algorithm that learns from its own rollouts shares."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import get_scheduler

from bots_lightning.algorithms.advantages import group_mean_and_std
from bots_lightning.algorithms.module import TRAIN, PolicyModule
from bots_lightning.beliefs import Evidence
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.rollouts import Rollouts, derive_seed
from bots_lightning.tasks import TaskPool


class OnlineModule(PolicyModule):
    """Rolls out the selected tasks, scores them, reports the evidence and updates the policy.

    Subclasses implement `update`, under manual optimization. The belief is updated inside `training_step`, so that
    every checkpoint holds a policy and a belief of the same step.

    Args:
        learning_rate: of AdamW at its peak.
        weight_decay: of AdamW.
        lr_scheduler_type: a schedule of transformers over the run's optimizer steps.
        warmup_steps: optimizer steps of linear warm-up.
        max_grad_norm: gradients are clipped to this norm.
        **kwargs: see `PolicyModule`.
    """

    def __init__(
        self,
        *args: Any,
        learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
        warmup_steps: int = 0,
        max_grad_norm: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.lr_scheduler_type, self.warmup_steps = lr_scheduler_type, warmup_steps
        self.max_grad_norm = max_grad_norm

    @abstractmethod
    def update(self, rollouts: Rollouts, rewards: Tensor) -> dict[str, float]:
        """Takes the optimizer steps of one iteration.

        Args:
            rollouts: R = B·G rows.
            rewards: (B, G) float, NaN where there is none.

        Returns:
            metrics to log; `loss` among them.
        """

    @property
    def optimizer_steps_per_iteration(self) -> int:
        """How many optimizer steps `update` takes."""
        return 1

    # --- the optimizer ------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """AdamW over the trainable weights, with its schedule."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=self.learning_rate, weight_decay=self.weight_decay)
        scheduler = get_scheduler(self.lr_scheduler_type, optimizer, self.warmup_steps, self._total_optimizer_steps())
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _total_optimizer_steps(self) -> int:
        """Optimizer steps of the whole run; the schedule ends there."""
        trainer = self.trainer
        limits = [trainer.max_steps] if trainer.max_steps > 0 else []
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            trainer.fit_loop.setup_data()
            batches = int(trainer.num_training_batches)
            limits.append(trainer.max_epochs * batches * self.optimizer_steps_per_iteration)
        if not limits and self.lr_scheduler_type in ("linear", "cosine"):
            raise ValueError(
                f"lr_scheduler_type={self.lr_scheduler_type!r} needs the length of the run; set trainer.max_steps or "
                "trainer.max_epochs, or use lr_scheduler_type=constant."
            )
        return min(limits, default=1)

    # --- one iteration ------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Refuses what would fail or go wrong silently hours later."""
        trainer: Any = self.trainer
        if not isinstance(trainer.datamodule, TaskDataModule):
            raise ValueError("training needs a TaskDataModule; pass Trainer.fit(module, datamodule=TaskDataModule(…)).")
        if trainer.world_size > 1:
            raise ValueError(
                f"the run has {trainer.world_size} processes; training works in one. Set trainer.devices=1 and "
                "trainer.num_nodes=1."
            )
        if str(trainer.precision).startswith("16"):
            raise ValueError(
                f"trainer.precision={trainer.precision} scales gradients, and clipping would see the scaled ones. "
                "Use bf16-mixed or 32."
            )
        if trainer.overfit_batches:
            raise ValueError(
                "trainer.overfit_batches replaces the selector by a fixed sampler. Remove it; for a small fixed set of "
                "tasks use a source with `limit` and UniformSelector."
            )
        for pool in (trainer.datamodule.require_pool(), *trainer.datamodule.eval_pools.values()):
            self._check_prompts(pool)

    def _check_prompts(self, pool: TaskPool) -> None:
        for task in (pool[i] for i in range(len(pool))):
            self.encoder.encode([task.prompt], [task.id])

    def training_step(self, batch: TaskBatch, batch_idx: int) -> dict[str, Any]:
        """Rolls out, scores, updates the belief and the policy.

        Returns:
            what callbacks read beside the batch: `loss`; `rewards` (B, G); `completions` (B·G strings);
            `num_tokens`; `timings` in seconds.
        """
        timings: dict[str, float] = {"select": self._datamodule.select_seconds}
        with _timed(timings, "step"):
            with _timed(timings, "rollout"):
                seed = derive_seed(self.seed, TRAIN, self.progress.iterations, self.global_rank)
                rollouts = self.rollout(batch.tasks, self.num_generations, seed)
            with _timed(timings, "reward"):
                completions = self.encoder.decode(rollouts.completion_ids, rollouts.completion_mask)
                rewards = self.scorer(batch.tasks, completions)
            # Before the update: its thread pools stay busy for a while and would slow the belief down.
            self._datamodule.observe(self._evidence(batch.indices, rewards))
            timings["observe"] = self._datamodule.observe_seconds
            with _timed(timings, "update"):
                reward_tensor = torch.as_tensor(rewards, dtype=torch.float32, device=self.device)
                metrics = self.update(rollouts, reward_tensor)
        num_tokens = int(rollouts.lengths.sum())
        self._count(len(rollouts), num_tokens)
        self._log_step(rollouts, reward_tensor, metrics, timings)
        return {
            "loss": torch.tensor(metrics["loss"]),
            "rewards": reward_tensor,
            "completions": completions,
            "num_tokens": num_tokens,
            "timings": timings,
        }

    def optimizer_step_clipped(self) -> float:
        """Clips the accumulated gradients, steps optimizer and schedule; the gradient's norm before clipping."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert not isinstance(optimizer, list)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(trainable, self.max_grad_norm, error_if_nonfinite=True)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        return float(norm)

    def _evidence(self, indices: list[int], rewards: npt.NDArray[np.float64]) -> Evidence:
        valid = np.isfinite(rewards)
        successes = np.where(valid, self.scorer.fraction(rewards), 0.0).sum(axis=1)
        return Evidence(np.array(indices), successes, valid.sum(axis=1).astype(np.float64))

    def _count(self, rollouts: int, tokens: int) -> None:
        gathered: Any = self.all_gather(torch.tensor([rollouts, tokens], device=self.device))
        totals = gathered.reshape(-1, 2).sum(dim=0)
        self.progress.iterations += 1
        self.progress.rollouts += int(totals[0])
        self.progress.generated_tokens += int(totals[1])

    def _log_step(
        self, rollouts: Rollouts, rewards: Tensor, metrics: dict[str, float], timings: dict[str, float]
    ) -> None:
        """TRL's names; means over ranks."""
        valid = rewards[~rewards.isnan()]
        lengths = rollouts.lengths.float()
        logged: dict[str, Any] = metrics | {
            "reward": valid.mean(),
            "reward_std": group_mean_and_std(rewards)[1].mean(),
            "completions/mean_length": lengths.mean(),
            "completions/max_length": lengths.max(),
            "completions/clipped_ratio": (~rollouts.finished).float().mean(),
            "step_time": timings["select"] + timings["step"],
            "step": float(self.progress.iterations),  # Lightning takes the loggers' step from here
        }
        self.log_dict(logged, batch_size=len(rewards), sync_dist=self.trainer.world_size > 1)
        spent = {
            "num_tokens": float(self.progress.generated_tokens),
            "num_rollouts": float(self.progress.rollouts),
        }
        self.log_dict(spent | self._datamodule.selector.metrics(), batch_size=len(rewards))


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - start
