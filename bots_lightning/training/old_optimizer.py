"""The optimizer of a module that learns online: its schedule, and steps that stay finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from transformers import get_scheduler

from bots_lightning.algorithms.experience import Experience
from bots_lightning.options import check_numbers
from bots_lightning.strategies import take_step, trained_pass
from bots_lightning.training.nonfinite import check_skipped, dump_batch, nonfinite_gradients
from bots_lightning.training.old_online import OnlineModule
from bots_lightning.training.schedule import total_optimizer_steps

Computed = TypeVar("Computed")


class OptimizerModule(OnlineModule):
    """Takes a fixed number of optimizer steps on each batch of rollouts, with AdamW and a learning-rate schedule.

    Subclasses set the two numbers below, and call `clip_and_step` when a gradient is there.

    Args:
        learning_rate: of AdamW at its peak.
        weight_decay: of AdamW.
        lr_scheduler_type: a schedule of transformers over the run's optimizer steps.
        warmup_steps: optimizer steps of linear warm-up.
        max_grad_norm: gradients are clipped to this norm.
        max_skipped_steps: a step whose loss or gradient is not finite is skipped, and its batch saved in the run
            folder below `nonfinite`; after so many in a row the run stops.
        **kwargs: see `OnlineModule` and `PolicyModule`.
    """

    num_passes: int  # over each batch of rollouts
    num_parts: int  # mini-batches of a pass, an optimizer step each

    def __init__(
        self,
        *args: Any,
        learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
        warmup_steps: int = 0,
        max_grad_norm: float = 1.0,
        max_skipped_steps: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_numbers(0, learning_rate=learning_rate, weight_decay=weight_decay, warmup_steps=warmup_steps)
        check_numbers(0, above=True, max_grad_norm=max_grad_norm, max_skipped_steps=max_skipped_steps)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.lr_scheduler_type, self.warmup_steps = lr_scheduler_type, warmup_steps
        self.max_grad_norm, self.max_skipped_steps = max_grad_norm, max_skipped_steps

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Of the optimizer."""
        return [{"params": [weight for weight in self.parameters() if weight.requires_grad], "lr": self.learning_rate}]

    def configure_optimizers(self) -> Any:
        """AdamW over the trainable weights, with its schedule."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), weight_decay=self.weight_decay)
        steps = total_optimizer_steps(self.trainer, self.optimizer_steps_per_iteration)
        if steps is None and self.lr_scheduler_type in ("linear", "cosine"):
            raise ValueError(
                f"lr_scheduler_type={self.lr_scheduler_type!r} needs the length of the run; set trainer.max_steps or "
                "trainer.max_epochs, or use lr_scheduler_type=constant."
            )
        scheduler = get_scheduler(self.lr_scheduler_type, optimizer, self.warmup_steps, steps or 1)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    @property
    def optimizer_steps_per_iteration(self) -> int:
        """Passes × mini-batches; fewer where `target_kl` ends an update."""
        return self.num_passes * self.num_parts

    def on_fit_start(self) -> None:
        """Refuses an update without a step, and more mini-batches than there are rows."""
        if min(self.num_passes, self.num_parts) < 1:
            raise ValueError(
                f"{self.num_passes} passes of {self.num_parts} optimizer steps over each batch; expected at least 1 of "
                "either. Raise num_iterations and steps_per_generation (of PPO: num_ppo_epochs and num_mini_batches)."
            )
        super().on_fit_start()
        rows = self._datamodule.batch_size // self.trainer.world_size * self.num_generations
        if self.num_parts > rows:
            raise ValueError(
                f"{self.num_parts} optimizer steps per pass over {rows} rollouts; expected at most one for each. Lower "
                "steps_per_generation (of PPO: num_mini_batches), or raise data.batch_size or num_generations."
            )

    def on_train_start(self) -> None:
        """The schedule sets the learning rate, also of an optimizer that a checkpoint has left behind."""
        super().on_train_start()
        for group, rate in zip(self._optimizer.param_groups, self._scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    @property
    def _optimizer(self) -> Any:
        return self.optimizers()

    @property
    def _scheduler(self) -> Any:
        return self.lr_schedulers()

    def through_strategy(self, compute: Callable[[], Computed]) -> Computed:
        """Runs a forward pass that will be differentiated, where the strategy sees it; others as they are."""
        return trained_pass(self.trainer.strategy, compute) if torch.is_grad_enabled() else compute()

    def forward(self, compute: Callable[[], Computed]) -> Computed:
        """Runs a forward pass for a strategy that wraps this module."""
        return compute()

    def clip_and_step(self, part: Experience, loss: float) -> float:
        """Clips the gradient and steps, or skips; the gradient's norm before clipping, not finite if skipped."""
        trained = [weight for weight in self.parameters() if weight.requires_grad]
        finite, counted = math.isfinite(loss), self.trainer.global_step
        norm, taken = take_step(self.trainer.strategy, self._optimizer, trained, self.max_grad_norm, finite)
        if taken:
            self.progress.skipped_in_a_row = 0
        else:
            self._skip(part, loss, norm)
            norm = math.nan
        if self.trainer.global_step == counted:  # a step that is skipped counts too, or a run would outlast max_steps
            self._optimizer._on_before_step()
            self._optimizer._on_after_step()
        self.advance_schedule()
        self._optimizer.zero_grad()
        return norm

    def advance_schedule(self) -> None:
        """By one optimizer step, whether it was taken or not."""
        with warnings.catch_warnings():  # torch warns when the very first one was not
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self._scheduler.step()

    def _skip(self, part: Experience, loss: float, norm: float) -> None:
        self.progress.skipped_steps += 1
        self.progress.skipped_in_a_row += 1
        folder = Path(self.trainer.default_root_dir) / "nonfinite"
        iteration = self.progress.iterations
        name = f"iteration-{iteration}-step-{self.progress.skipped_steps}-rank-{self.global_rank}.pt"
        dump_batch(folder / name, part, loss, norm, nonfinite_gradients(self.named_parameters()), iteration)
        check_skipped(self.progress.skipped_in_a_row, self.max_skipped_steps, folder)
