"""Learning online: what every algorithm that learns from its own rollouts shares."""

# Shapes: B tasks on this rank, G rollouts per task, R = B·G rows, T completion tokens.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bots_lightning.checkpoints import WholeSteps
from bots_lightning.data import TaskBatch
from bots_lightning.evaluation import MetricsCSV
from bots_lightning.options import check_numbers
from bots_lightning.rewards import Outcomes
from bots_lightning.rollouts import Rollouts
from bots_lightning.strategies import divides_weights
from bots_lightning.training.checks import check_ranks_agree, check_trainer
from bots_lightning.training.groups import Groups
from bots_lightning.training.metrics import StepClock, reward_metrics, rollout_metrics, timing_metrics
from bots_lightning.training.old_sampling import SamplingModule
from bots_lightning.training.schedule import total_optimizer_steps


class OnlineModule(SamplingModule):
    """Learns from its own rollouts: samples, updates the belief and the policy, logs.

    Subclasses implement `update`, under manual optimization. The belief is updated inside `training_step`, so that
    every checkpoint holds a policy and a belief of the same step.

    Args:
        check_ranks_every: iterations after which ranks compare what they believe, and stop if it differs.
        **kwargs: see `SamplingModule` and `PolicyModule`.
    """

    def __init__(self, *args: Any, check_ranks_every: int = 10, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(1, check_ranks_every=check_ranks_every)
        self.automatic_optimization = False
        self.check_ranks_every = check_ranks_every
        self._whole_steps: WholeSteps | None = None

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

    # --- one iteration ------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuses what cannot go well before anything is loaded; sees that checkpoints are taken of whole steps."""
        if stage == "fit":
            check_trainer(self.trainer)
        super().setup(stage)
        if stage == "fit":
            self._whole_steps = WholeSteps(self.trainer, self._datamodule.between_steps)
            self._datamodule.between_steps.append(self._forget_figures)

    def teardown(self, stage: str) -> None:
        """Undoes that."""
        super().teardown(stage)
        if self._whole_steps is not None:
            self._whole_steps.remove()
            self._datamodule.between_steps.remove(self._forget_figures)
            self._whole_steps = None

    def _forget_figures(self) -> None:
        """Of the last step: Lightning would log those that the next one does not have, of absent groups, again."""
        for figure in self.trainer.fit_loop.epoch_loop._results.values():
            if figure.meta.on_step and not figure.meta.on_epoch:
                figure.reset()

    def on_fit_start(self) -> None:
        """Tells the selector how long the run is. A run that goes on has been evaluated before training."""
        if self.trainer.ckpt_path:  # Lightning would evaluate all the same where an epoch is over
            self.trainer.num_sanity_val_steps = 0
        super().on_fit_start()
        optimizer_steps = total_optimizer_steps(self.trainer, self.optimizer_steps_per_iteration)
        self._datamodule.selector.planned_selections = (
            None if optimizer_steps is None else optimizer_steps // self.optimizer_steps_per_iteration
        )

    def on_train_start(self) -> None:
        """The curves go on from where this run does; ranks begin alike."""
        super().on_train_start()
        check_ranks_agree(self._datamodule.fingerprint, self._whole_weights())
        for curves in self._curves():
            curves.continue_after(self.progress.iterations)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Writes the curves first: a run that goes on from this checkpoint will not log its steps again."""
        super().on_save_checkpoint(checkpoint)
        for curves in self._curves():
            curves.flush()

    def _curves(self) -> list[MetricsCSV]:
        return [logger for logger in self.trainer.loggers if isinstance(logger, MetricsCSV)]

    def training_step(self, batch: TaskBatch, batch_idx: int) -> dict[str, Any]:
        """Rolls out, scores, updates the belief and the policy.

        Returns:
            what callbacks read, on all B' groups rolled out, B' = B without dynamic sampling: `loss`; `tasks`;
            `rewards` (B', G); `evidence` (B', G) in [0, 1], what the belief counts; `completions` (B'·G strings);
            `finished` (B'·G) bool, False where one was cut; `num_tokens`; `timings` in seconds: of each of `PHASES`,
            `step` for all of them but `select`, and `ahead` for rolling out beside the last step.
        """
        self.clock = StepClock()
        self.clock.seconds["select"] = self._datamodule.select_seconds  # by the loader, just before
        ahead = self.await_ahead()
        with self.whole_model():
            with self.clock.phase("sync"):
                self.sync_engine()
            sampled = self.sample(batch)
            groups, metrics = self.choose(sampled, len(batch))
        self.begin_ahead()
        metrics |= self.staleness(sampled, ahead) | self.update(groups.rollouts, groups.rewards)
        everything = Groups.concatenate(sampled.rounds, self.sampling.pad_token_id)
        num_tokens = int(everything.rollouts.lengths.sum())
        of_all_ranks = self._count(len(everything.rollouts), num_tokens)
        metrics |= self._figures(everything, np.concatenate(sampled.scores, axis=1), sampled.outcomes)
        timings = self.clock.stop()
        self._log_step(metrics | timing_metrics(timings, of_all_ranks))
        if self.progress.iterations % self.check_ranks_every == 0:
            check_ranks_agree(self._datamodule.fingerprint, self._whole_weights())
        return {
            "loss": torch.tensor(metrics["loss"]),
            "tasks": sampled.tasks,
            "rewards": everything.rewards,
            "evidence": torch.as_tensor(np.concatenate(sampled.evidence), dtype=torch.float32, device=self.device),
            "completions": sampled.completions,
            "finished": everything.rollouts.finished,
            "num_tokens": num_tokens,
            "timings": timings | {"step": sum(timings.values()) - timings["select"], "ahead": ahead},
        }

    def _whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The trained ones, where every rank holds all of each."""
        if not divides_weights(self.trainer.strategy):
            yield from ((name, weight) for name, weight in self.named_parameters() if weight.requires_grad)

    def _figures(self, groups: Groups, scores: npt.NDArray[np.float64], outcomes: Outcomes) -> dict[str, Any]:
        """Of all that all ranks have rolled out, dropped groups included."""
        lengths, finished, rewards = (
            self._everyones(rows) for rows in (groups.rollouts.lengths, groups.rollouts.finished, groups.rewards)
        )
        scored = self._everyones(torch.as_tensor(scores, device=self.device).transpose(0, 1)).transpose(0, 1)
        of_rewards = reward_metrics(self.scorer.names, scored.cpu().numpy())
        return of_rewards | rollout_metrics(lengths, finished, rewards) | outcomes.fractions()

    def _everyones(self, rows: Tensor) -> Tensor:
        """The rows of all ranks."""
        return rows if self.gather is None else self.gather(rows).flatten(0, 1)

    def _count(self, rollouts: int, tokens: int) -> int:
        """The tokens of all ranks."""
        gathered = self._gather(torch.tensor([rollouts, tokens], device=self.device))
        all_rollouts, all_tokens = gathered.reshape(-1, 2).sum(dim=0).tolist()
        self.progress.iterations += 1
        self.progress.rollouts += all_rollouts
        self.progress.generated_tokens += all_tokens
        return all_tokens

    def _log_step(self, metrics: dict[str, Any]) -> None:
        """Means over ranks."""
        metrics["step"] = float(self.progress.iterations)  # Lightning takes the loggers' step from here
        self.log_dict(metrics, batch_size=1, sync_dist=self.trainer.world_size > 1)
        spent = {
            "num_tokens": float(self.progress.generated_tokens),
            "num_rollouts": float(self.progress.rollouts),
        }
        self.log_dict(spent | self._datamodule.selector.metrics(), batch_size=1)
