"""The callback logs the shares of a step, and its mean over the run survives a checkpoint."""

# Rewards are written as one list per task.

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from step_logs import logging_trainer

from bots_lightning.evaluation import CountHistogram
from bots_lightning.rollouts.segments import groups_of_rows
from callbacks import EffectiveTaskRatio

SOLVED, FAILED, MIXED, HALF = [1.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.5, 0.5]


class Module:
    """What the callback needs of a module, and the highest reward of its range; what was logged of the last step."""

    def __init__(self, high: float = 1.0, others: list[torch.Tensor] | None = None) -> None:
        self.progress = SimpleNamespace(iterations=1)
        self.high, self.others = high, others or []  # what other ranks count
        self.logged: dict[str, float] = {}

    def all_gather(self, value: torch.Tensor) -> torch.Tensor:
        return torch.stack([value, *self.others])


class Pool:
    """Tasks of the given groups, none for a pool without."""

    def __init__(self, groups: list[str], size: int = 1) -> None:
        self.groups, self.size = np.array(groups, dtype=np.str_), size

    def __len__(self) -> int:
        return max(len(self.groups), self.size)


def trainer(counts: list[int], world_size: int = 1, groups: list[str] | None = None) -> Any:
    pool = Pool(groups or [])
    selected = CountHistogram(np.array(counts))
    datamodule = SimpleNamespace(count_histogram=selected, require_pool=lambda: pool)
    return logging_trainer(world_size=world_size, datamodule=datamodule)


def flat(rewards: list[list[float]]) -> torch.Tensor:
    return torch.tensor([reward for of_task in rewards for reward in of_task])


def step(
    callback: EffectiveTaskRatio,
    rewards: list[list[float]],
    module: Any = None,
    run: Any = None,
    groups: list[str] | None = None,
    evidence: list[list[float]] | None = None,
) -> Any:
    module = module or Module()
    tasks = [SimpleNamespace(group=group) for group in groups or [""] * len(rewards)]
    rows = flat(rewards)
    outputs = {
        "rewards": rows,
        "evidence": rows / module.high if evidence is None else flat(evidence),
        "group_of_row": groups_of_rows([len(row) for row in rewards]),
        "tasks": tasks,
    }
    run = run or trainer([1])
    callback.on_train_batch_end(run, module, outputs, None, 0)
    module.logged = run.loggers[0].last
    return module


def test_the_shares_of_a_step_by_hand() -> None:
    module = step(EffectiveTaskRatio(), [SOLVED, MIXED, FAILED, FAILED, MIXED], run=trainer([2, 0, 1, 1]))
    assert module.logged == pytest.approx(
        {
            "selection/effective_task_ratio": 2 / 5,
            "frac_reward_zero_std": 3 / 5,
            "selection/solved_all": 1 / 5,
            "selection/solved_none": 2 / 5,
            "selection/mixed_per_1000_rollouts": 1000 * 2 / 10,
            "selection/distinct_tasks": 3,
            "selection/seen_fraction": 3 / 4,
            "selection/effective_tasks": 2**1.5,  # shares 1/2, 1/4, 1/4
        }
    )


def test_solved_means_the_highest_reward_of_the_declared_range() -> None:
    module = step(EffectiveTaskRatio(), [[2.0, 2.0], SOLVED, HALF], Module(high=2.0))
    assert module.logged["selection/solved_all"] == pytest.approx(1 / 3)
    assert module.logged["selection/solved_none"] == pytest.approx(2 / 3)


def test_solved_is_told_by_the_evidence_and_a_gradient_by_the_rewards() -> None:
    formatted, nan = [0.0, 0.2], math.nan
    rewards, evidence = [formatted, formatted, [1.2, 1.2], [0.2, 0.2]], [FAILED, SOLVED, [1.0, nan], [nan, nan]]
    module = step(EffectiveTaskRatio(), rewards, evidence=evidence)
    shares = [module.logged[f"selection/{name}"] for name in ("effective_task_ratio", "solved_all", "solved_none")]
    assert shares == pytest.approx([2 / 4, 2 / 4, 1 / 4])


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=8))
def test_mixed_solved_all_and_solved_none_cover_every_task_once(rewards: list[list[float]]) -> None:
    logged = step(EffectiveTaskRatio(), rewards).logged
    shares = [logged[f"selection/{name}"] for name in ("effective_task_ratio", "solved_all", "solved_none")]
    assert sum(shares) == pytest.approx(1)
    assert logged["frac_reward_zero_std"] == pytest.approx(shares[1] + shares[2])
    assert shares[0] == pytest.approx(sum(len(set(row)) > 1 for row in rewards) / len(rewards))


def test_tasks_of_unequal_numbers_of_rollouts_count_alike_by_hand() -> None:
    nan, callback = math.nan, EffectiveTaskRatio()
    rewards = [[1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [nan, nan]]
    module = step(callback, rewards, run=trainer([1], groups=["a", "b"]), groups=["a", "a", "a", "b", "b"])
    of_run = ("selection/distinct_tasks", "selection/seen_fraction", "selection/effective_tasks")
    assert {name: value for name, value in module.logged.items() if name not in of_run} == pytest.approx(
        {
            RATIO: 1 / 5,
            "selection/mixed_per_1000_rollouts": 1000 * 1 / 13,
            "frac_reward_zero_std": 4 / 5,
            "selection/solved_all": 2 / 5,
            "selection/solved_none": 1 / 5,  # the task without rewards is neither
            f"{RATIO}/a": 1 / 3,
            f"{RATIO}/b": 0,
        }
    )
    step(callback, [MIXED])
    assert callback.mean == pytest.approx(2 / 6)
    assert callback.mixed_per_1000_rollouts == pytest.approx(1000 * 2 / 15)


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, math.nan]), min_size=1, max_size=4), min_size=1, max_size=6))
def test_rollouts_without_a_reward_change_nothing_else_than_their_number(rewards: list[list[float]]) -> None:
    """So that groups of unequal size could be filled up with them."""
    filled = [row + [math.nan] * (4 - len(row)) for row in rewards]
    logged, padded = step(EffectiveTaskRatio(), rewards).logged, step(EffectiveTaskRatio(), filled).logged
    per_rollout = "selection/mixed_per_1000_rollouts"
    mixed = [logged.pop(per_rollout) * sum(map(len, rewards)), padded.pop(per_rollout) * 4 * len(rewards)]
    assert mixed[0] == pytest.approx(mixed[1])
    assert logged == padded


@given(st.integers(1, 4), st.data())
def test_halved_groups_have_a_lower_ratio_and_mixed_halves(half: int, data: st.DataObject) -> None:
    """So the ratio falls where groups get smaller, whatever the same rollouts can teach."""
    whole = data.draw(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=2 * half, max_size=2 * half), min_size=1))
    halves = [part for row in whole for part in (row[:half], row[half:])]
    (large, small), ratios = (EffectiveTaskRatio(), EffectiveTaskRatio()), []
    for callback, rewards in ((large, whole), (small, halves)):
        ratios.append(step(callback, rewards).logged[RATIO])
    assert ratios[1] <= ratios[0]
    sorted_by_the_cut = sum(len(set(row)) > 1 and len(set(row[:half])) == len(set(row[half:])) == 1 for row in whole)
    assert small.mixed >= large.mixed - sorted_by_the_cut
    assert small.rollouts == large.rollouts


def test_sums_are_of_all_ranks() -> None:
    """Another rank has three tasks of group b with 2, 3 and 4 rollouts, one of them mixed, the others solved."""
    other = torch.tensor([2, 0, 9, 0, 0, 1, 3])  # solved in all, in none; rollouts; (mixed, selected) of a and b
    callback, module = EffectiveTaskRatio(), Module(others=[other])
    step(callback, [MIXED, SOLVED, FAILED], module, trainer([1], 2, ["a", "b"]), ["a", "b", "a"])
    assert (callback.mixed, callback.selected, callback.rollouts) == (2, 6, 15)
    assert callback.by_group == {"a": (1, 2), "b": (1, 4)}
    shares = [module.logged[f"selection/{name}"] for name in ("effective_task_ratio", "solved_all", "solved_none")]
    assert shares == pytest.approx([2 / 6, 3 / 6, 1 / 6])
    assert module.logged["selection/mixed_per_1000_rollouts"] == pytest.approx(1000 * 2 / 15)


RATIO = "selection/effective_task_ratio"


def test_the_ratio_of_each_group_by_hand() -> None:
    callback, module = EffectiveTaskRatio(), Module()
    run = trainer([1], groups=["maths", "logic", "maths", "games"])
    step(callback, [MIXED, SOLVED, MIXED, FAILED], module, run, ["maths", "maths", "logic", "maths"])
    assert {name: value for name, value in module.logged.items() if name.startswith(RATIO)} == pytest.approx(
        {RATIO: 2 / 4, f"{RATIO}/maths": 1 / 3, f"{RATIO}/logic": 1}
    )
    step(callback, [FAILED, MIXED], module, run, ["logic", "maths"])
    assert callback.group_means == pytest.approx({"logic": 1 / 2, "maths": 2 / 4})
    assert callback.mean == pytest.approx(3 / 6)


def test_groups_that_are_added_to_the_pool_are_told_apart() -> None:
    callback = EffectiveTaskRatio()
    step(callback, [MIXED], run=trainer([1], groups=["maths"]), groups=["maths"])
    step(callback, [FAILED, MIXED], run=trainer([1, 0], groups=["maths", "games"]), groups=["games", "maths"])
    assert callback.group_means == {"games": 0.0, "maths": 1.0}


def test_a_pool_without_groups_has_no_ratios_of_groups() -> None:
    callback = EffectiveTaskRatio()
    module = step(callback, [MIXED, SOLVED])
    assert callback.group_means == {}
    assert [name for name in module.logged if name.startswith(RATIO)] == [RATIO]


def test_the_mean_counts_tasks_and_not_steps() -> None:
    callback = EffectiveTaskRatio()
    assert math.isnan(callback.mean)
    step(callback, [MIXED, SOLVED, FAILED, FAILED])
    step(callback, [MIXED])
    assert callback.mean == pytest.approx(2 / 5)


def test_the_mean_continues_after_a_resume(tmp_path: Path) -> None:
    callback, resumed = EffectiveTaskRatio(), EffectiveTaskRatio()
    step(callback, [MIXED, SOLVED, MIXED], run=trainer([1], groups=["a", "b"]), groups=["a", "a", "b"])
    step(resumed, [FAILED])  # to be overwritten
    torch.save(callback.state_dict(), tmp_path / "callback.ckpt")
    resumed.load_state_dict(torch.load(tmp_path / "callback.ckpt", weights_only=True))
    step(resumed, [FAILED], run=trainer([1], groups=["a", "b"]), groups=["b"])
    assert resumed.mean == pytest.approx(2 / 4)
    assert resumed.group_means == pytest.approx({"a": 1 / 2, "b": 1 / 2})
    assert callback.mean == pytest.approx(2 / 3)
    assert resumed.mixed_per_1000_rollouts == pytest.approx(1000 * 2 / 8)


def test_of_a_checkpoint_that_has_not_counted_rollouts_nothing_is_claimed() -> None:
    callback = EffectiveTaskRatio()
    callback.load_state_dict({"mixed": 3.0, "selected": 4.0})
    step(callback, [MIXED])
    assert callback.mean == pytest.approx(4 / 5)
    assert math.isnan(callback.mixed_per_1000_rollouts)
