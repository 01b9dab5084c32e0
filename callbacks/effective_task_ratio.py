"""Tracks how many of the selected tasks could teach something."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback

from bots_lightning.evaluation import effective_number, mixed_groups


class EffectiveTaskRatio(Callback):
    """Logs the effective task ratio (ETR) of every step and keeps its mean over the run.

    ETR is the share of selected tasks whose rewards are not all equal (BOTS, arXiv:2510.26374). It is read together
    with the diversity of the selection: a narrow choice can have a high ratio and teach little.

    Logs `selection/effective_task_ratio`, its complement `frac_reward_zero_std`, split into `selection/solved_all` and
    `selection/solved_none`; and `selection/distinct_tasks`, `selection/effective_tasks`.
    """

    def __init__(self) -> None:
        self.mixed = 0.0
        self.selected = 0.0

    @property
    def mean(self) -> float:
        """ETR over all steps of the run; NaN before the first."""
        return self.mixed / self.selected if self.selected else float("nan")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the rewards of one step."""
        rewards: torch.Tensor = outputs["rewards"]
        mixed = mixed_groups(rewards)
        totals: Any = pl_module.all_gather(torch.stack([mixed.sum(), torch.tensor(len(mixed), device=mixed.device)]))
        step_mixed, step_selected = totals.reshape(-1, 2).sum(dim=0).tolist()
        self.mixed += step_mixed
        self.selected += step_selected
        scorer: Any = pl_module.scorer
        full = rewards.nan_to_num(nan=-torch.inf).amax(dim=1) >= scorer.high
        ratio = mixed.float().mean()
        shares = {
            "selection/effective_task_ratio": ratio,
            "frac_reward_zero_std": 1 - ratio,
            "selection/solved_all": (~mixed & full).float().mean(),
            "selection/solved_none": (~mixed & ~full & ~rewards.isnan().all(dim=1)).float().mean(),
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
        return {"mixed": self.mixed, "selected": self.selected}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the mean."""
        self.mixed, self.selected = state_dict["mixed"], state_dict["selected"]
