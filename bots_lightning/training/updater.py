"""The update of a policy: epochs of minibatches over each batch of rollouts, an optimizer step each."""

# Shapes: R rows.

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from bots_lightning.algorithms import Algorithm, Experience, StepContext
from bots_lightning.algorithms.meter import Meter
from bots_lightning.options import check_numbers
from bots_lightning.rollouts import derive_seed
from bots_lightning.strategies import take_step
from bots_lightning.training.gradients import gradients
from bots_lightning.training.nonfinite import check_skipped, dump_batch, nonfinite_gradients
from bots_lightning.training.seeds import MINIBATCHES


@final
class Updater:
    """AdamW with a learning-rate schedule, gradients clipped, and steps that are not finite skipped.

    Args:
        learning_rate: of AdamW at its peak.
        weight_decay: of AdamW.
        lr_scheduler_type: a schedule of transformers over the run's optimizer steps.
        warmup_steps: optimizer steps of linear warm-up.
        max_grad_norm: gradients are clipped to this norm.
        max_skipped_steps: a step whose loss or gradient is not finite is skipped, and its batch saved in the run
            folder below `nonfinite`; after so many in a row the run stops.

    Raises:
        ValueError: an option is out of bounds.
    """

    def __init__(
        self,
        learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
        warmup_steps: int = 0,
        max_grad_norm: float = 1.0,
        max_skipped_steps: int = 5,
    ) -> None:
        check_numbers(0, learning_rate=learning_rate, weight_decay=weight_decay, warmup_steps=warmup_steps)
        check_numbers(0, above=True, max_grad_norm=max_grad_norm, max_skipped_steps=max_skipped_steps)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.lr_scheduler_type, self.warmup_steps = lr_scheduler_type, warmup_steps
        self.max_grad_norm, self.max_skipped_steps = max_grad_norm, max_skipped_steps

    def optimizer(self, algorithm: Algorithm, trained: list[nn.Parameter], steps: int | None) -> dict[str, Any]:
        """AdamW and its schedule, as Lightning takes them.

        Args:
            algorithm: which has parameter groups of its own.
            trained: all weights that are trained.
            steps: optimizer steps of the run; None if it is endless.

        Raises:
            ValueError: the schedule needs the length of the run, and there is none.
        """
        groups = algorithm.parameter_groups(trained, self.learning_rate)
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        if steps is None and self.lr_scheduler_type in ("linear", "cosine"):
            raise ValueError(
                f"lr_scheduler_type={self.lr_scheduler_type!r} needs the length of the run; set trainer.max_steps or "
                "trainer.max_epochs, or use lr_scheduler_type=constant."
            )
        scheduler = get_scheduler(self.lr_scheduler_type, optimizer, self.warmup_steps, steps or 1)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    @staticmethod
    def set_rates(optimizer: Any, scheduler: Any) -> None:
        """Sets the learning rates to those of the schedule, also where a checkpoint has left its optimizer behind.

        Args:
            optimizer: Lightning's.
            scheduler: of its learning rates.
        """
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def update(self, experience: Experience, algorithm: Algorithm, context: StepContext) -> dict[str, float]:
        """The optimizer steps of one batch of rollouts.

        Args:
            experience: R rows, as prepared by the algorithm.
            algorithm: whose losses are minimized.
            context: of the step.

        Returns:
            metrics, `loss` among them.
        """
        meter, losses, norms, steps = Meter(), [], [], 0
        for rows in minibatches(len(experience), algorithm, context):
            batch = _minibatch(experience, rows)
            with context.clock.phase("backward"):
                loss, metrics = gradients(batch, algorithm, context, context.optimizer.zero_grad)
            if context.world_size > 1:
                metrics.over_ranks(context.gather)
            if algorithm.target_kl is not None and metrics.mean("approxkl") > algorithm.target_kl:
                context.optimizer.zero_grad()
                break
            meter.merge(metrics)
            with context.clock.phase("optimizer", context.device):
                norm = self._step(batch, loss, context)
            steps += 1
            if math.isfinite(norm):
                losses.append(loss)
                norms.append(norm)
        for _ in range(algorithm.steps_per_iteration - steps):
            _advance(context.scheduler)
        done = {"loss": _mean(losses), "grad_norm": _mean(norms), "optimizer_steps": float(len(losses))}
        done |= {"skipped_steps": float(context.progress.skipped_steps)}
        return algorithm.metrics(meter) | done | {"learning_rate": float(context.optimizer.param_groups[0]["lr"])}

    def _step(self, batch: Experience, loss: float, context: StepContext) -> float:
        """Clips the gradient and steps, or skips; the gradient's norm before clipping, not finite if skipped."""
        counted, optimizer = context.global_step(), context.optimizer
        trained, finite = list(context.trained.values()), math.isfinite(loss)
        norm, taken = take_step(context.strategy, optimizer, trained, self.max_grad_norm, finite)
        if taken:
            context.progress.skipped_in_a_row = 0
        else:
            self._skip(batch, loss, norm, context)
            norm = math.nan
        if context.global_step() == counted:  # a step that is skipped counts too, or a run would outlast max_steps
            optimizer._on_before_step()
            optimizer._on_after_step()
        _advance(context.scheduler)
        optimizer.zero_grad()
        return norm

    def _skip(self, batch: Experience, loss: float, norm: float, context: StepContext) -> None:
        progress, folder = context.progress, context.folder / "nonfinite"
        progress.skipped_steps += 1
        progress.skipped_in_a_row += 1
        name = f"iteration-{progress.iterations}-step-{progress.skipped_steps}-rank-{context.rank}.pt"
        named = nonfinite_gradients(context.trained.items())
        dump_batch(folder / name, batch, loss, norm, named, progress.iterations)
        check_skipped(progress.skipped_in_a_row, self.max_skipped_steps, folder)


def minibatches(rows: int, algorithm: Algorithm, context: StepContext) -> Iterator[Tensor]:
    """Row indices of each optimizer step, shuffled anew in each epoch if that has several steps.

    Args:
        rows: R, of this rank. Where they are fewer than minibatches, the last of these are empty.
        algorithm: with its numbers of epochs and minibatches.
        context: of the step.
    """
    for epoch in range(algorithm.num_epochs):
        order = torch.arange(rows)
        if algorithm.num_minibatches > 1:
            keys = (context.seed, MINIBATCHES, context.progress.iterations, context.rank, epoch)
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(derive_seed(*keys)))
        yield from (part.to(context.device) for part in order.tensor_split(algorithm.num_minibatches))


def _minibatch(experience: Experience, rows: Tensor) -> Experience:
    """The rows (n,); a row that is not learned from if n is 0, since all ranks take equally many steps."""
    return experience.rows(rows) if len(rows) else experience.rows(rows.new_zeros(1)).without_tokens()


def _advance(scheduler: Any) -> None:
    """The schedule goes on by one optimizer step, whether that was taken or not."""
    with warnings.catch_warnings():  # torch warns when the very first one was not
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        scheduler.step()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
