"""Tracks how many of the selected tasks could teach something."""

# Shapes: K tasks in the step, R rollouts, N the most of one task, L labels of groups in the pool.

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from bots_lightning.evaluation import mixed_groups
from bots_lightning.rollouts.segments import by_group
from callbacks.selection_callback import SelectionCallback, counted


class EffectiveTaskRatio(SelectionCallback):
    """Logs the effective task ratio (ETR) of every step and keeps its mean over the run, of all tasks and by group.

    ETR is the share of selected tasks whose rewards are not all equal (BOTS, arXiv:2510.26374). It is read together
    with the diversity of the selection: a narrow choice can have a high ratio and teach little. Tasks count alike,
    however many rollouts each has.

    Logs `selection/effective_task_ratio`, its complement `frac_reward_zero_std`, split into `selection/solved_all` and
    `selection/solved_none`; and `selection/distinct_tasks`, `selection/effective_tasks`. If the pool has groups, also
    `selection/effective_task_ratio/<group>` for those that the step took tasks of.

    The ratio is of the rewards: it tells which groups have a gradient. Where the module names its `evidence`,
    `solved_all` and `solved_none` are of that function's scores: they tell what the belief sees.
    """

    def __init__(self) -> None:
        self.mixed = 0.0
        self.selected = 0.0
        self.by_group: dict[str, tuple[float, float]] = {}  # (mixed, selected)
        self._places: dict[str, int] = {}  # of the pool's groups
        self._pool_size = 0

    @property
    def mean(self) -> float:
        """ETR over all steps of the run; NaN before the first."""
        return self.mixed / self.selected if self.selected else float("nan")

    @property
    def group_means(self) -> dict[str, float]:
        """ETR over all steps of the run, by the groups that were selected; empty if the pool has none."""
        return {group: mixed / selected for group, (mixed, selected) in sorted(self.by_group.items())}

    @counted
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the rewards of one step."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        mixed = mixed_groups(outputs["rewards"], outputs["group_of_row"])
        places = self._places_of_groups(datamodule.require_pool())
        mine = torch.tensor([places[task.group] for task in outputs["tasks"]], device=mixed.device)
        sums = torch.zeros(len(places), 2, device=mixed.device)
        sums.index_add_(0, mine, torch.stack([mixed, torch.ones_like(mixed)], dim=1).float())
        totals: Any = pl_module.all_gather(sums)
        ratios = self._add(totals.reshape(-1, *sums.shape).sum(dim=0).tolist())
        shares = _shares(mixed, outputs["evidence"], outputs["group_of_row"])
        pl_module.log_dict(shares, batch_size=len(mixed), sync_dist=trainer.world_size > 1)
        selected = datamodule.count_histogram
        diversity = {
            "selection/distinct_tasks": float(selected.distinct),
            "selection/effective_tasks": selected.effective_number,
        }
        pl_module.log_dict(diversity | ratios, batch_size=len(mixed))

    def _places_of_groups(self, pool: Any) -> dict[str, int]:
        """L labels, each with its place; a pool without groups has one, the empty label."""
        if len(pool) != self._pool_size:  # tasks may be added while the run goes on
            names = sorted(set(pool.groups.tolist())) or [""]
            self._places, self._pool_size = {name: place for place, name in enumerate(names)}, len(pool)
        return self._places

    def _add(self, step: list[tuple[float, float]]) -> dict[str, float]:
        """Adds what a step has shown to the sums of the run.

        Args:
            step: L pairs (mixed, selected), of all ranks.

        Returns:
            the ratios to log, of groups that the step took tasks of.
        """
        ratios = {}
        for group, (mixed, selected) in zip(self._places, step, strict=True):
            self.mixed += mixed
            self.selected += selected
            if group and selected:
                before = self.by_group.get(group, (0.0, 0.0))
                self.by_group[group] = (before[0] + mixed, before[1] + selected)
                ratios[f"selection/effective_task_ratio/{group}"] = mixed / selected
        return ratios

    def state_dict(self) -> dict[str, Any]:
        """The counts so far."""
        by_group = {group: list(counts) for group, counts in self.by_group.items()}
        return {"mixed": self.mixed, "selected": self.selected, "by_group": by_group}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the means."""
        self.mixed, self.selected = state_dict["mixed"], state_dict["selected"]
        self.by_group = {group: (counts[0], counts[1]) for group, counts in state_dict.get("by_group", {}).items()}


def _shares(mixed: Tensor, evidence: Tensor, group_of_row: Tensor) -> dict[str, Tensor]:
    """What shares of a step's tasks have a gradient, are solved and are not.

    Args:
        mixed: (K,) bool, whether a task's rewards differ.
        evidence: (R,) float in [0, 1], NaN where there is none.
        group_of_row: (R,) int64, each row's task.

    Returns:
        four shares by the names of their metrics.
    """
    by_task = by_group(evidence, group_of_row)  # (K, N)
    equal = ~mixed_groups(evidence, group_of_row) & ~by_task.isnan().all(dim=1)
    full = by_task.nan_to_num(nan=-torch.inf).amax(dim=1) >= 1
    ratio = mixed.float().mean()
    return {
        "selection/effective_task_ratio": ratio,
        "frac_reward_zero_std": 1 - ratio,
        "selection/solved_all": (equal & full).float().mean(),
        "selection/solved_none": (equal & ~full).float().mean(),
    }
