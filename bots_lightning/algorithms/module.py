"""The LightningModule that every algorithm shares: rollouts, rewards, evidence, evaluation, checkpoints."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning import LightningModule
from torch import Tensor
from transformers import get_scheduler

from bots_lightning.algorithms.policy import LoRA, PretrainedSource, language_model, load_policy, stop_token_ids
from bots_lightning.beliefs import Evidence
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.evaluation import HeldOutScore
from bots_lightning.rewards import RewardFunction, Scorer
from bots_lightning.rollouts import (
    GenerateEngine,
    PromptEncoder,
    RolloutEngine,
    Rollouts,
    Sampling,
    derive_seed,
    load_tokenizer,
)
from bots_lightning.tasks import Task, TaskPool

# Streams of randomness below one seed.
TRAIN, EVALUATE, PREDICT, ADAPTERS = range(4)


@dataclass
class Progress:
    """Counters of a run, kept in its checkpoints. `global_step` of the trainer counts optimizer steps instead.

    Attributes:
        iterations: RL steps: one selection, one batch of rollouts, one update.
        rollouts: completions sampled for training, over all ranks.
        generated_tokens: tokens of those completions.
    """

    iterations: int = 0
    rollouts: int = 0
    generated_tokens: int = 0


class PolicyModule(LightningModule):
    """Rolls out the selected tasks, scores them, updates the policy, and reports the evidence.

    Subclasses implement `update`. Everything else is common: the policy is a causal language model of transformers,
    finetuned in full or by LoRA under manual optimization; the belief is updated inside `training_step`, so that
    every checkpoint holds a policy and a belief of the same step; all randomness is derived from (seed, iteration,
    rank), so that a resumed run repeats the undisturbed one.

    Args:
        pretrained: a checkpoint folder, a Hub name, or a source that makes one.
        reward_funcs: reward functions in TRL's signature, by dotted path in YAML.
        reward_weights: one per function; all 1 by default.
        reward_range: the smallest and largest weighted sum of rewards.
        lora: trains low-rank adapters; None trains all weights.
        dtype: of the loaded weights.
        engine: samples the completions; `GenerateEngine` by default.
        num_generations: G, rollouts per selected task.
        max_prompt_length: tokens; longer prompts are an error unless `truncate_prompts`.
        max_completion_length: tokens, stop token included.
        truncate_prompts: keep the last tokens of prompts that are too long.
        temperature: of sampling, and of the log-probabilities in the loss.
        learning_rate: of AdamW at its peak.
        weight_decay: of AdamW.
        lr_scheduler_type: a schedule of transformers over the run's optimizer steps.
        warmup_steps: optimizer steps of linear warm-up.
        max_grad_norm: gradients are clipped to this norm.
        eval_num_generations: n, completions per held-out task.
        eval_pass_k: k of pass@k, by default n.
        seed: of rollouts and adapters.
    """

    def __init__(
        self,
        pretrained: str | PretrainedSource,
        reward_funcs: list[RewardFunction],
        reward_weights: list[float] | None = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
        lora: LoRA | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        engine: RolloutEngine | None = None,
        num_generations: int = 8,
        max_prompt_length: int = 512,
        max_completion_length: int = 256,
        truncate_prompts: bool = False,
        temperature: float = 1.0,
        learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
        warmup_steps: int = 0,
        max_grad_norm: float = 1.0,
        eval_num_generations: int = 4,
        eval_pass_k: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_generations < 2:
            raise ValueError(f"num_generations={num_generations}; a group needs at least 2 rollouts to compare.")
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}; expected a positive number: training samples.")
        if lora is None and dtype == "bfloat16":
            raise ValueError(
                "full finetuning of bfloat16 weights loses most updates to rounding. Use dtype=float32 with "
                "trainer.precision=bf16-mixed, or train a LoRA."
            )
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints leave frozen weights out; on_load_checkpoint checks the rest
        self.pretrained, self.lora, self.dtype_name = pretrained, lora, dtype
        self.scorer = Scorer(reward_funcs, reward_weights, reward_range)
        self.engine = engine or GenerateEngine()
        self.num_generations = num_generations
        self.max_prompt_length, self.max_completion_length = max_prompt_length, max_completion_length
        self.truncate_prompts = truncate_prompts
        self.temperature = temperature
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.lr_scheduler_type, self.warmup_steps = lr_scheduler_type, warmup_steps
        self.max_grad_norm = max_grad_norm
        self.eval_num_generations, self.eval_pass_k = eval_num_generations, eval_pass_k or eval_num_generations
        self.seed = seed
        self.policy: torch.nn.Module | None = None
        self.progress = Progress()
        self.evaluations: list[dict[str, Any]] = []  # [{"iteration", "overall", "scores": {name: float}}]
        self._held_out: dict[str, HeldOutScore] = {}

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

    # --- the policy ---------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Loads model and tokenizer, once, when a run starts."""
        if self.policy is not None:
            return
        folder = self.pretrained.prepare() if isinstance(self.pretrained, PretrainedSource) else self.pretrained
        self.policy = load_policy(folder, self.lora, self.dtype_name, derive_seed(self.seed, ADAPTERS))
        self.tokenizer = load_tokenizer(folder)
        self.encoder = PromptEncoder(self.tokenizer, self.max_prompt_length, self.truncate_prompts)
        self.sampling = Sampling(
            self.max_completion_length,
            stop_token_ids(self.policy, self.tokenizer),
            self.tokenizer.pad_token_id,
            self.temperature,
        )

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

    def rollout(self, tasks: list[Task], n: int, seed: int) -> Rollouts:
        """Samples n completions of each task under the present policy."""
        assert self.policy is not None
        prompts = self.encoder.encode([task.prompt for task in tasks], [task.id for task in tasks])
        model = language_model(self.policy)
        return self.engine.generate(model, prompts, n, self.sampling, seed, policy_version=self.progress.iterations)

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
            "reward_std": _group_std(rewards).nanmean(),
            "completions/mean_length": lengths.mean(),
            "completions/max_length": lengths.max(),
            "completions/clipped_ratio": (~rollouts.finished).float().mean(),
            "step_time": timings["select"] + timings["step"],
            "step": float(self.progress.iterations),  # Lightning takes the loggers' step from here
        }
        self.log_dict(logged, batch_size=len(rewards), sync_dist=self.trainer.world_size > 1)
        self.log_dict(
            {"num_tokens": float(self.progress.generated_tokens)} | self._datamodule.selector.metrics(),
            batch_size=len(rewards),
        )

    @property
    def _datamodule(self) -> TaskDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # --- evaluation ---------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Fresh counts for every held-out pool."""
        self._held_out = {
            name: HeldOutScore(self.eval_num_generations, self.eval_pass_k, sorted(set(pool.groups))).to(self.device)
            for name, pool in self._datamodule.eval_pools.items()
        }

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Rolls out and scores held-out tasks; the same draws at every evaluation."""
        score = list(self._held_out.values())[dataloader_idx]
        seed = derive_seed(self.seed, EVALUATE, dataloader_idx, batch_idx, self.global_rank)
        _, rewards = self._rollout_and_score(batch.tasks, self.eval_num_generations, seed)
        valid = np.isfinite(rewards)
        with np.errstate(invalid="ignore"):
            quality = np.where(valid, self.scorer.fraction(rewards), 0.0).sum(axis=1) / valid.sum(axis=1)
        solved = (self.scorer.fraction(rewards) >= 1 - 1e-6).sum(axis=1)
        groups = [score.positions.get(task.group, -1) for task in batch.tasks]
        score.update(
            torch.as_tensor(quality, dtype=torch.float32, device=self.device),
            *(torch.as_tensor(column, device=self.device) for column in (solved, valid.sum(axis=1), np.array(groups))),
        )

    def on_validation_epoch_end(self) -> None:
        """Logs `eval/NAME/…` and keeps the scores in the run's history."""
        if not self.trainer.sanity_checking:
            self.log_dict(self._record_scores() | {"step": float(self.progress.iterations)}, batch_size=1)
        elif self.trainer.num_sanity_val_steps == math.inf:  # the evaluation before training, and not a part of it
            self._log_outside_the_loop(self._record_scores())

    def on_train_end(self) -> None:
        """Evaluates the final policy, if the last evaluation came before the last iteration."""
        if self.evaluations and self.evaluations[-1]["iteration"] != self.progress.iterations:
            self.on_validation_epoch_start()
            with torch.no_grad():
                for index, loader in enumerate(self._datamodule.val_dataloader()):
                    for batch_idx, batch in enumerate(loader):
                        self.validation_step(batch, batch_idx, index)
            self._log_outside_the_loop(self._record_scores())

    def _log_outside_the_loop(self, scores: dict[str, float]) -> None:
        """To the loggers themselves: Lightning drops figures of sanity checks and of `on_train_end`."""
        for logger in self.trainer.loggers:
            logger.log_metrics(scores, step=self.progress.iterations)

    def _record_scores(self) -> dict[str, float]:
        scores = {
            f"eval/{name}/{figure}": float(value)
            for name, score in self._held_out.items()
            for figure, value in score.compute().items()
        }
        if scores:
            overall = [scores[f"eval/{name}/avg@{self.eval_num_generations}"] for name in self._held_out]
            entry = {"iteration": self.progress.iterations, "overall": sum(overall) / len(overall), "scores": scores}
            self.evaluations.append(entry)
        return scores

    def on_test_epoch_start(self) -> None:
        """As for validation."""
        self.on_validation_epoch_start()

    def test_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As for validation."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """As for validation."""
        self.on_validation_epoch_end()

    def predict_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Rolls out training tasks; `task_ids`, `rewards` (B, G) and `completions` for prediction writers."""
        seed = derive_seed(self.seed, PREDICT, batch_idx, self.global_rank)
        completions, rewards = self._rollout_and_score(batch.tasks, self.num_generations, seed)
        task_ids = [task.id for task in batch.tasks]
        return {"task_ids": task_ids, "rewards": torch.as_tensor(rewards), "completions": completions}

    def _rollout_and_score(self, tasks: list[Task], n: int, seed: int) -> tuple[list[str], npt.NDArray[np.float64]]:
        rollouts = self.rollout(tasks, n, seed)
        completions = self.encoder.decode(rollouts.completion_ids, rollouts.completion_mask)
        return completions, self.scorer(tasks, completions)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves frozen weights out; adds the counters and the history of evaluations."""
        kept = set(self._trained_names(checkpoint["state_dict"]))
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["progress"] = vars(self.progress).copy()
        checkpoint["evaluations"] = self.evaluations

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses weights of another model; restores the counters.

        Raises:
            ValueError: the checkpoint's trained weights are not those of this policy.
        """
        self.configure_model()
        mine, theirs = set(self._trained_names(self.state_dict())), set(checkpoint["state_dict"])
        if mine != theirs:
            raise ValueError(
                f"the checkpoint holds {len(theirs)} trained weights, this policy has {len(mine)}; the first that "
                f"differ: {sorted(mine ^ theirs)[:3]}. Resume with the `pretrained` and `lora` of the checkpoint."
            )
        self.progress = Progress(**checkpoint["progress"])
        self.evaluations = list(checkpoint["evaluations"])

    def _trained_names(self, names: Iterable[str]) -> list[str]:
        frozen = {n for n, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return [name for name in names if name not in frozen]


def _group_std(rewards: Tensor) -> Tensor:
    """(B,) standard deviation of each group's rewards, NaN for a group with fewer than two."""
    return torch.stack(
        [group[~group.isnan()].std() if (~group.isnan()).sum() > 1 else group.sum() for group in rewards]
    )


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - start
