"""Tracks how many of the selected tasks could teach something."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback

from bots_lightning.evaluation import EffectiveTaskRate, effective_number, mixed_groups


class EffectiveTaskRatio(Callback):
    """Logs the effective task ratio (ETR) of every step and keeps its mean over the run.

    ETR is the share of selected tasks whose rewards are not all equal (BOTS, arXiv:2510.26374). It is read together
    with the diversity of the selection: a narrow choice can have a high ratio and teach little.

    Logs `selection/effective_task_ratio`, its complement `frac_reward_zero_std`, split into `selection/solved_all` and
    `selection/solved_none`; and `selection/distinct_tasks`, `selection/effective_tasks`.
    """

    def __init__(self) -> None:
        self.rate = EffectiveTaskRate()

    @property
    def mean(self) -> float:
        """ETR over all steps of the run; NaN before the first."""
        return float(self.rate.compute()) if self.rate.selected > 0 else float("nan")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follows the module to its device."""
        self.rate.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the rewards of one step."""
        rewards: torch.Tensor = outputs["rewards"]
        self.rate.update(rewards)
        mixed = mixed_groups(rewards)
        full = rewards.nan_to_num().amax(dim=1) >= pl_module.scorer.high  # type: ignore[operator, union-attr]
        ratio = mixed.float().mean()
        shares = {
            "selection/effective_task_ratio": ratio,
            "frac_reward_zero_std": 1 - ratio,
            "selection/solved_all": (~mixed & full).float().mean(),
            "selection/solved_none": (~mixed & ~full).float().mean(),
        }
        pl_module.log_dict(shares, batch_size=len(rewards), sync_dist=trainer.world_size > 1)
        counts = trainer.datamodule.selection_counts  # type: ignore[attr-defined]
        diversity = {
            "selection/distinct_tasks": float((counts > 0).sum()),
            "selection/effective_tasks": effective_number(counts),
        }
        pl_module.log_dict(diversity, batch_size=len(rewards))

    def state_dict(self) -> dict[str, Any]:
        """The counts so far."""
        return {"mixed": float(self.rate.mixed), "selected": float(self.rate.selected)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the mean."""
        self.rate.mixed.fill_(state_dict["mixed"])
        self.rate.selected.fill_(state_dict["selected"])
