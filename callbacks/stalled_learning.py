"""Warns of runs that go on without learning anything, each time with a completion that shows why."""

# Shapes: K tasks in the step, R rollouts, L labels of groups in the pool. A visit is one task of one step.

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from torch import Tensor

from bots_lightning.options import check_numbers

log = logging.getLogger(__name__)

SLACK = 1e-6  # of the reward range
SHOWN = 400  # characters of a prompt, an answer or a completion
MEMORY = 0.99  # of a group's share of solved visits, per visit
UNKNOWN = 0.2  # that share, before a group is solved for the first time
REMEDIES = {
    "lowest": "Look whether the reward function reads answers in the form that the prompt asks for, or choose easier "
    "tasks.",
    "highest": "Choose harder tasks, or a reward function that tells more.",
}


class StalledLearning(Callback):
    """Warns of what keeps a run from learning, of each once, with a completion that shows it.

    An iteration has no reward, since all functions returned None; a group of tasks is never solved, or not any more,
    with no score in the upper half of the range of the `evidence`; rewards stick to one end of `reward_range`; or
    completions are cut at `max_completion_length`.

    A group is warned of after V visits in a row with no success, and at least `group_rollouts` rollouts in them, once
    (1 − s/2)^V ≤ `false_alarm`: were its tasks solved half as often as before, that would be as improbable. s is the
    share of earlier visits with a success, of the latest hundred mostly; 0.2 for a group that was never solved. The
    half allows for a selection that moves to harder tasks.

    Counts are of all ranks. A resumed run goes on counting and does not warn anew.

    Args:
        group_rollouts: the least of a group without a success.
        stuck_rollouts: in a row that all have the lowest reward, or all the highest.
        cut_share: of an iteration's completions; more are too many.
        false_alarm: the largest probability that a group is unsolved by chance, in (0, 1]; 1 counts rollouts alone.

    Raises:
        ValueError: an option is out of bounds.
    """

    def __init__(
        self,
        group_rollouts: int = 256,
        stuck_rollouts: int = 1024,
        cut_share: float = 0.5,
        false_alarm: float = 1e-6,
    ) -> None:
        check_numbers(1, group_rollouts=group_rollouts, stuck_rollouts=stuck_rollouts)
        check_numbers(0, above=True, high=1, false_alarm=false_alarm)
        if not 0 <= cut_share <= 1:
            raise ValueError(f"cut_share={cut_share}; expected a share in [0, 1].")
        self.group_rollouts, self.stuck_rollouts, self.cut_share = group_rollouts, stuck_rollouts, cut_share
        self.false_alarm = false_alarm
        self.warned: set[str] = set()
        self.solved: dict[str, list[float]] = {}  # visits and solved visits of groups up to the last success, decayed
        self.unsolved: dict[str, list[int]] = {}  # rollouts and visits of groups since
        self.in_a_row = dict.fromkeys(REMEDIES, 0)
        self._groups: list[str] = []  # of the pool
        self._pool_size = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts one step."""
        module: Any = pl_module
        step = _Step(module, outputs, self._groups_of(trainer.datamodule.require_pool()))  # type: ignore[attr-defined]
        self._watch_iteration(step, f"iteration {module.progress.iterations}", module.sampler.max_completion_length)
        self._watch_ends(step, module.scorer)
        self._watch_groups(step)

    def _groups_of(self, pool: Any) -> list[str]:
        """L labels, sorted; a pool without groups has one, the empty label."""
        if len(pool) != self._pool_size:  # tasks may be added while the run goes on
            self._groups, self._pool_size = np.unique(pool.groups).tolist() or [""], len(pool)
        return self._groups

    def _watch_iteration(self, step: _Step, iteration: str, longest: int) -> None:
        if not step.scored:
            self._warn(
                "no reward",
                f"{iteration}: none of {step.rollouts} completions has a reward: all reward functions returned None. "
                "Look for the columns that they need.",
                step,
                torch.ones_like(step.is_scored),
            )
        if step.cut > self.cut_share * step.rollouts:
            self._warn(
                "cut",
                f"{iteration}: {step.cut} of {step.rollouts} completions were cut at max_completion_length={longest}, "
                "before an answer that comes last. Raise it, or ask for shorter answers.",
                step,
                step.is_cut,
            )

    def _watch_ends(self, step: _Step, scorer: Any) -> None:
        for end, at_end in (("lowest", step.lowest), ("highest", step.highest)):
            self.in_a_row[end] = self.in_a_row[end] + at_end if at_end == step.scored else 0
            if self.in_a_row[end] >= self.stuck_rollouts:
                self._warn(
                    end,
                    f"the last {self.in_a_row[end]} rewards are all the {end} of "
                    f"reward_range=({scorer.low:g}, {scorer.high:g}): there is nothing to learn. {REMEDIES[end]}",
                    step,
                    step.is_scored,
                )

    def _watch_groups(self, step: _Step) -> None:
        for group, (rollouts, visits, solved) in step.by_group.items():
            before = self.unsolved.get(group, [0, 0])
            self.unsolved[group] = [before[0] + rollouts, before[1] + visits]
            if solved:
                visits = self.unsolved.pop(group)[1]
                seen, successes = self.solved.get(group, [0.0, 0.0])
                kept = MEMORY**visits
                self.solved[group] = [kept * seen + visits, kept * successes + solved]
            elif self._is_stalled(group):
                self._warn(f"group {group}", self._told_of(group), step, step.of_group(group))

    def _share(self, group: str) -> float:
        """Share of a group's visits with a success, up to the last one."""
        visits, solved = self.solved.get(group, [1.0, UNKNOWN])
        return solved / visits

    def _is_stalled(self, group: str) -> bool:
        """Whether a group without a success in its last visits has had enough of them."""
        rollouts, visits = self.unsolved[group]
        by_chance = (1 - self._share(group) / 2) ** visits
        return rollouts >= self.group_rollouts and by_chance <= self.false_alarm

    def _told_of(self, group: str) -> str:
        name = f"the group {group!r}" if group else "the tasks without a group"
        rollouts, visits = self.unsolved[group]
        if group not in self.solved:
            return (
                f"none of the first {rollouts} completions for {name}, in {visits} visits of its tasks, has solved its "
                "task. Look whether answers and reward function are right, whether the prompt asks for the form or "
                "mark that the reward function reads, or choose easier tasks."
            )
        return (
            f"none of the last {rollouts} completions for {name}, in {visits} visits of its tasks, has solved its "
            f"task; before, {self._share(group):.0%} of the visits had a success. Look whether the policy has given up "
            "the form or mark that the reward function reads, and ask for it in the prompt, or read answers without it."
        )

    def _warn(self, what: str, message: str, step: _Step, shown: Tensor) -> None:
        """Warns once, on all ranks alike: they exchange a completion to show.

        Args:
            what: is warned of once.
            message: what has been seen, and what to do.
            step: the present one.
            shown: (R,) bool, this rank's completions that show it.
        """
        if what in self.warned:
            return
        self.warned.add(what)
        example = step.example(shown)
        if not dist.is_initialized() or dist.get_rank() == 0:
            log.warning("%s%s", message, example)

    def state_dict(self) -> dict[str, Any]:
        """What has been counted and said."""
        solved = {group: [*counts] for group, counts in self.solved.items()}
        unsolved = {group: [*counts] for group, counts in self.unsolved.items()}
        said = {"warned": sorted(self.warned), "in_a_row": dict(self.in_a_row)}
        return said | {"solved_visits": solved, "unsolved_visits": unsolved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self.warned, self.in_a_row = set(state_dict["warned"]), dict(state_dict["in_a_row"])
        # States of earlier versions have no visits.
        self.solved = {group: [*counts] for group, counts in state_dict.get("solved_visits", {}).items()}
        self.unsolved = {group: [*counts] for group, counts in state_dict.get("unsolved_visits", {}).items()}


class _Step:
    """What one step shows.

    Attributes:
        is_scored: (R,) bool, this rank's completions with a reward.
        is_cut: (R,) bool, those that were cut.
        rollouts: completions of all ranks.
        scored: those with a reward.
        lowest: those with the lowest reward.
        highest: those with the highest.
        cut: those that were cut.
        by_group: (completions with evidence, visits with some, solved visits) of all ranks, for groups that have any.
    """

    def __init__(self, module: Any, outputs: Any, groups: list[str]) -> None:
        self.outputs = outputs
        rewards, evidence = outputs["rewards"], outputs["evidence"]
        self.is_scored, self.is_cut = ~rewards.isnan(), ~outputs["finished"]
        fractions = (rewards - module.scorer.low) / (module.scorer.high - module.scorer.low)
        kinds = torch.ones_like(self.is_cut), self.is_scored, fractions <= SLACK, fractions >= 1 - SLACK, self.is_cut
        places = torch.tensor([groups.index(task.group) for task in outputs["tasks"]], device=rewards.device)
        of_rows = torch.stack([~evidence.isnan(), evidence > 0.5], dim=1).long()
        rollouts, solved = of_rows.new_zeros(len(places), 2).index_add_(0, outputs["group_of_row"], of_rows).unbind(1)
        of_tasks = torch.stack([rollouts, (rollouts > 0).long(), (solved > 0).long()], dim=1)
        of_groups = of_tasks.new_zeros(len(groups), 3).index_add_(0, places, of_tasks)
        mine = torch.cat([torch.stack([kind.sum() for kind in kinds]), of_groups.flatten()])
        counts: list[int] = module.all_gather(mine).reshape(-1, len(mine)).sum(dim=0).tolist()
        self.rollouts, self.scored, self.lowest, self.highest, self.cut = counts[:5]
        of_pool = zip(groups, zip(*(counts[at::3] for at in (5, 6, 7)), strict=True), strict=True)
        self.by_group = {group: of_group for group, of_group in of_pool if of_group[0]}

    def of_group(self, group: str) -> Tensor:
        """(R,) bool, this rank's completions of a group."""
        mine = torch.tensor([task.group == group for task in self.outputs["tasks"]], device=self.is_cut.device)
        return mine[self.outputs["group_of_row"]]

    def example(self, shown: Tensor) -> str:
        """The first of these completions, with its task; empty if no rank has any."""
        rows = shown.nonzero().flatten().tolist()
        found: list[Any] = [self._described(rows[0]) if rows else ""]
        if dist.is_initialized():
            mine, found = found[0], [None] * dist.get_world_size()
            dist.all_gather_object(found, mine)
        return next(filter(None, found), "")

    def _described(self, row: int) -> str:
        task, reward = self.outputs["tasks"][self.outputs["group_of_row"][row]], self.outputs["rewards"][row].item()
        prompt = task.prompt if isinstance(task.prompt, str) else task.prompt[-1]["content"]
        return (
            f" For example, task {task.id!r} with the prompt {_ends(prompt)} and the answer {_ends(task.answer)} got "
            f"the completion {_ends(self.outputs['completions'][row])}, whose reward is "
            f"{'None' if math.isnan(reward) else f'{reward:g}'}."
        )


def _ends(text: str) -> str:
    """A text, or both of its ends if it is long."""
    half = SHOWN // 2
    return repr(text if len(text) <= SHOWN else f"{text[:half]} … {text[-half:]}")
