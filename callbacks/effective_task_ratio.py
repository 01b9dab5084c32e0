"""Tracks how many of the selected tasks could teach something, and how many rollouts that takes."""

# Shapes: K tasks in the step, R rollouts, L labels of groups in the pool.

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from bots_lightning.evaluation import extremes, log_step_metrics, mixed_groups
from callbacks.selection_callback import SelectionCallback, counted


class EffectiveTaskRatio(SelectionCallback):
    """Logs the effective task ratio (ETR) of every step and keeps its mean over the run, of all tasks and by group.

    ETR is the share of selected tasks whose rewards are not all equal (BOTS, arXiv:2510.26374). Tasks count alike,
    however many rollouts each has, so that the ratio falls when each gets fewer, although what the same rollouts can
    teach grows: compare runs with groups of another size by mixed groups per 1,000 rollouts. Both count all that was
    rolled out, groups that dynamic sampling drops included. A narrow choice can have a high ratio and teach little, so
    read them together with how many tasks were seen, and how evenly.

    Logs `selection/effective_task_ratio`, its complement `frac_reward_zero_std`, split into `selection/solved_all` and
    `selection/solved_none`; `selection/mixed_per_1000_rollouts`; and of the run so far `selection/distinct_tasks`,
    their share of the pool `selection/seen_fraction`, and `selection/effective_tasks`. If the pool has groups, also
    `selection/effective_task_ratio/<group>` for those that the step took tasks of.

    The ratio is of the rewards: it tells which groups have a gradient. Where the module names its `evidence`,
    `solved_all` and `solved_none` are of that function's scores: they tell what the belief sees.
    """

    def __init__(self) -> None:
        self.mixed = 0.0
        self.selected = 0.0
        self.rollouts = 0.0
        self.by_group: dict[str, tuple[float, float]] = {}  # (mixed, selected)
        self._places: dict[str, int] = {}  # of the pool's groups
        self._pool_size = 0

    @property
    def mean(self) -> float:
        """ETR over all steps of the run; NaN before the first."""
        return self.mixed / self.selected if self.selected else math.nan

    @property
    def mixed_per_1000_rollouts(self) -> float:
        """Mixed groups over all rollouts of the run, in thousands; NaN before the first."""
        return 1000 * self.mixed / self.rollouts if self.rollouts else math.nan

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
        places = self._places_of_groups(datamodule.require_pool())
        mine = _counts([places[task.group] for task in outputs["tasks"]], len(places), outputs)
        if trainer.world_size > 1:
            gathered: Any = pl_module.all_gather(mine)
            mine = gathered.sum(dim=0)
        solved_all, solved_none, rollouts, *of_groups = mine.tolist()
        shares = self._add(of_groups, solved_all, solved_none, rollouts)
        seen = datamodule.count_histogram
        diversity = {
            "selection/distinct_tasks": float(seen.distinct),
            "selection/seen_fraction": seen.seen_fraction,
            "selection/effective_tasks": seen.effective_number,
        }
        progress: Any = pl_module.progress
        log_step_metrics(trainer, shares | diversity, progress.iterations)

    def _places_of_groups(self, pool: Any) -> dict[str, int]:
        """L labels, each with its place; a pool without groups has one, the empty label."""
        if len(pool) != self._pool_size:  # tasks may be added while the run goes on
            names = sorted(set(pool.groups.tolist())) or [""]
            self._places, self._pool_size = {name: place for place, name in enumerate(names)}, len(pool)
        return self._places

    def _add(self, of_groups: list[int], solved_all: int, solved_none: int, rollouts: int) -> dict[str, float]:
        """Adds what a step has shown, of all ranks, to the sums of the run.

        Args:
            of_groups: how many tasks were mixed, then how many selected; of each of the L labels.
            solved_all: tasks.
            solved_none: tasks.
            rollouts: of all tasks.

        Returns:
            the metrics to log; ratios of groups that the step took tasks of.
        """
        mixed, selected = sum(of_groups[::2]), sum(of_groups[1::2])
        self.mixed, self.selected, self.rollouts = (
            self.mixed + mixed,
            self.selected + selected,
            self.rollouts + rollouts,
        )
        shares = {
            "selection/effective_task_ratio": mixed / selected,
            "frac_reward_zero_std": 1 - mixed / selected,
            "selection/solved_all": solved_all / selected,
            "selection/solved_none": solved_none / selected,
            "selection/mixed_per_1000_rollouts": 1000 * mixed / rollouts,
        }
        for group, mixed, selected in zip(self._places, of_groups[::2], of_groups[1::2], strict=True):
            if group and selected:
                before = self.by_group.get(group, (0.0, 0.0))
                self.by_group[group] = (before[0] + mixed, before[1] + selected)
                shares[f"selection/effective_task_ratio/{group}"] = mixed / selected
        return shares

    def state_dict(self) -> dict[str, Any]:
        """The counts so far."""
        by_group = {group: list(counts) for group, counts in self.by_group.items()}
        return {"mixed": self.mixed, "selected": self.selected, "rollouts": self.rollouts, "by_group": by_group}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the means; that over rollouts is NaN if an earlier version has not counted them."""
        self.mixed, self.selected = state_dict["mixed"], state_dict["selected"]
        self.rollouts = state_dict.get("rollouts", math.nan)
        self.by_group = {group: (counts[0], counts[1]) for group, counts in state_dict.get("by_group", {}).items()}


def _counts(places: list[int], labels: int, outputs: Any) -> Tensor:
    """What this rank counts of a step.

    Args:
        places: K of them, each task's label.
        labels: L.
        outputs: with `rewards` and `evidence`, both (R,) with NaN where there is none, and `group_of_row` (R,), each
            row's task.

    Returns:
        (3 + 2 L,) int64: tasks solved in all rollouts, in none; rollouts; and mixed and selected tasks of each label.
    """
    rewards, evidence, group_of_row = (outputs[name].cpu() for name in ("rewards", "evidence", "group_of_row"))
    low, high = extremes(evidence, group_of_row)
    full, equal = high >= 1, low == high
    of_tasks = torch.stack([mixed_groups(rewards, group_of_row), torch.ones_like(full)], dim=1).long()
    of_labels = of_tasks.new_zeros(labels, 2).index_add_(0, torch.tensor(places), of_tasks)
    totals = [int((equal & full).sum()), int((equal & ~full).sum()), len(rewards)]
    return torch.cat([torch.tensor(totals), of_labels.flatten()]).to(outputs["rewards"].device)
