"""Runs whose tasks get numbers of rollouts of their own: 2, 3, 5 and 16 in turn."""

# Shapes: K tasks, n_k rollouts of task k, R = Σ n_k rows.

from __future__ import annotations

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from bots_lightning.algorithms import GRPO, PPO, Experience, RolloutGroups, StepContext
from bots_lightning.allocation import FixedAllocation
from bots_lightning.selection import UniformSelector
from bots_lightning.training import DynamicSampling
from callbacks import CompletionsLog, EffectiveTaskRatio

COUNTS = [2, 3, 5, 16]
G = 7  # on average; 6.5 are used
ROWS = [row for row, count in enumerate(COUNTS) for _ in range(count)]


@pytest.fixture(autouse=True)
def _unequal(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, COUNTS)


def give(monkeypatch: pytest.MonkeyPatch, counts: list[int]) -> None:
    """Has tasks get so many rollouts in turn."""
    monkeypatch.setattr(FixedAllocation, "allocate", lambda self, alpha, beta, count: np.resize(counts, len(alpha)))


@pytest.fixture
def build(build: Any) -> Any:
    return partial(build, num_generations=G)


class Observed(Callback):
    """Keeps the evidence of each iteration, task by task in the order of the draw."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.evidence: list[Any] = []
        observe = UniformSelector.observe
        monkeypatch.setattr(
            UniformSelector, "observe", lambda own, seen: self.evidence.append(seen) or observe(own, seen)
        )


def watched(module: Any) -> list[tuple[RolloutGroups, Experience]]:
    """What each update of the module is prepared from, and what it learns from."""
    prepare, seen = module.algorithm.prepare, []

    def watching(groups: RolloutGroups, context: StepContext) -> tuple[Experience, dict[str, float]]:
        experience, metrics = prepare(groups, context)
        seen.append((groups, experience))
        return experience, metrics

    module.algorithm.prepare = watching
    return seen


def advantages_by_hand(groups: RolloutGroups) -> list[float]:
    """(r − mean) / (std + ε) · G/n of each row in its group."""
    listed = list(zip(groups.rewards.tolist(), groups.group_of_row.tolist(), strict=True))
    by_group = [[reward for reward, group in listed if group == k] for k in range(len(groups))]
    return [
        (reward - statistics.mean(rewards)) / (statistics.stdev(rewards) + 1e-4) * G / len(rewards)
        for rewards in by_group
        for reward in rewards
    ]


def test_evidence_advantages_and_counters_are_those_of_each_group(
    build: Any, fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed, ratio = Observed(monkeypatch), EffectiveTaskRatio()
    module = build(GRPO)
    updates = watched(module)
    log = CompletionsLog(every_n_steps=1, max_tasks=99)
    history = fit(module, 3, callbacks=[observed, ratio, log]).history
    mixed = 0
    for step, seen, (groups, experience) in zip(history.steps, observed.evidence, updates, strict=True):
        assert step["group_of_row"].tolist() == groups.group_of_row.tolist() == ROWS
        assert seen.counts.tolist() == COUNTS
        successes = torch.zeros(4).index_add(0, step["group_of_row"], step["evidence"])
        assert seen.successes.tolist() == successes.tolist()
        assert experience.advantages.tolist() == pytest.approx(advantages_by_hand(groups), abs=1e-5)
        mixed += sum(0 < s < n for s, n in zip(successes.tolist(), COUNTS, strict=True))
        assert len(step["completions"]) == sum(COUNTS)
    assert ratio.mean == pytest.approx(mixed / 12)
    assert module.progress.rollouts == 3 * sum(COUNTS)
    assert history["num_rollouts"] == [sum(COUNTS) * step for step in (1, 2, 3)]
    assert history["reward"] == pytest.approx([float(step["rewards"].mean()) for step in history.steps])
    lines = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * sum(COUNTS)
    assert all(torch.isfinite(weight).all() for weight in history.weights[-1].values())


def test_the_numbers_of_rollouts_change_no_completion(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's completions are the first of those that it would have with more."""
    few = fit(build(GRPO), 1).history.steps[0]
    give(monkeypatch, [16])
    many = fit(build(GRPO, num_generations=16), 1).history.steps[0]
    for k, count in enumerate(COUNTS):
        mine, all_of_them = (
            [text for text, group in zip(step["completions"], step["group_of_row"].tolist(), strict=True) if group == k]
            for step in (few, many)
        )
        assert mine == all_of_them[:count]


@pytest.mark.parametrize(("algorithm", "options"), [(GRPO, {}), (PPO, {"num_ppo_epochs": 1})])
def test_microbatches_change_nothing(build: Any, fit: Any, algorithm: Any, options: dict[str, int]) -> None:
    def run(budget: int | None) -> Any:
        module = build(algorithm, kl_coef=0.1, max_tokens_per_microbatch=budget, **options)
        module.configure_model()
        return fit(module.double(), 2).history

    whole, split = run(None), run(60)
    assert split["loss"] == pytest.approx(whole["loss"], abs=1e-5)
    for name, weight in whole.weights[-1].items():
        torch.testing.assert_close(split.weights[-1][name], weight, rtol=0, atol=1e-5)
    assert min(whole["grad_norm"]) > 1e-3


def by_place(completions: list[str], task_id: list[str], **_: Any) -> list[float]:
    """Groups of 2 rollouts have equal rewards, all others differ."""
    sizes = {name: task_id.count(name) for name in task_id}
    return [float(sizes[name] > 2 and row % 2) for row, name in enumerate(task_id)]


def test_leftovers_of_unequal_size_are_learned_from_in_the_next_iteration(build: Any, fit: Any) -> None:
    module = build(GRPO, reward_funcs=[by_place], dynamic_sampling=DynamicSampling())
    updates = watched(module)
    history = fit(module, 3).history
    sizes = [torch.bincount(groups.group_of_row).tolist() for groups, _ in updates]
    # Each batch has groups of 3, 5 and 16 that differ: 3 + 1 of 3 are learned from, 2 are left over, and so on.
    assert sizes == [[3, 5, 16, 3], [5, 16, 3, 5], [16, 3, 5, 16]]
    assert history["dynamic_sampling/leftover_groups"] == [0, 2, 1]
    assert history["dynamic_sampling/batches"] == [2, 1, 1]
    for groups, experience in updates:
        assert experience.advantages.tolist() == pytest.approx(advantages_by_hand(groups), abs=1e-5)
    assert module.progress.rollouts == 4 * sum(COUNTS)


def test_ppo_learns_from_all_rows(build: Any, fit: Any) -> None:
    module = build(PPO, num_ppo_epochs=2, num_mini_batches=3)
    updates = watched(module)
    history = fit(module, 2).history
    assert history["optimizer_steps"] == [6, 6]
    assert [len(experience) for _, experience in updates] == [26, 26]
    for groups, experience in updates:
        assert experience.mask.equal(groups.rollouts.completion_mask)
    assert all(torch.isfinite(weight).all() for weight in history.weights[-1].values())


def test_fewer_rows_than_minibatches_are_as_many_steps(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, [3, 2, 2, 2])
    module = build(GRPO, steps_per_generation=12, entropy_coef=0.1)
    history = fit(module, 2).history
    assert history["optimizer_steps"] == [12, 12]
    assert history["skipped_steps"] == [0, 0]
    assert min(history["grad_norm"]) > 1e-3
    assert module.progress.rollouts == 2 * 9


def test_asynchronous_rollouts_have_the_same_numbers(build: Any, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    observed, module = Observed(monkeypatch), build(GRPO, max_staleness=1)
    history = fit(module, 3, callbacks=[observed]).history
    assert history["sampling/staleness"] == [0, 1, 1]
    assert [seen.counts.tolist() for seen in observed.evidence] == [COUNTS] * 3
    assert [step["group_of_row"].tolist() for step in history.steps] == [ROWS] * 3


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (GRPO, {}),
        (PPO, {}),
        (GRPO, {"dynamic_sampling": DynamicSampling(), "num_iterations": 2}),
        (GRPO, {"max_staleness": 1}),
        (GRPO, {"max_staleness": 1, "dynamic_sampling": DynamicSampling(max_batches=2), "reward_funcs": [by_place]}),
    ],
    ids=["grpo", "ppo", "dynamic sampling", "asynchronous", "both"],
)
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    build: Any, fit: Any, tmp_path: Path, algorithm: Any, options: dict[str, Any]
) -> None:
    def run(folder: str, ckpt_path: str | None = None) -> tuple[Any, Any]:
        module = build(algorithm, **options)
        save = ModelCheckpoint(tmp_path / folder, every_n_train_steps=2 * module.algorithm.steps_per_iteration)
        limits = {"limit_train_batches": 4, "enable_checkpointing": True}
        save.save_top_k = -1
        return module, fit(module, callbacks=[save], ckpt_path=ckpt_path, **limits)

    whole, undisturbed = run("whole")
    path = min((tmp_path / "whole").iterdir(), key=lambda path: path.stat().st_mtime)
    state = torch.load(path, weights_only=True)
    assert state["progress"]["iterations"] == 2
    if "max_staleness" in options:
        assert [ahead["counts"] for ahead in state["ahead"]] == [COUNTS]
    if "dynamic_sampling" in options:
        assert state["leftovers"] is not None
    resumed, rest = run("resumed", str(path))
    completions = [step["completions"] for step in undisturbed.history.steps]
    assert [step["completions"] for step in rest.history.steps] == completions[2:]
    assert resumed.progress == whole.progress
    for name, weight in undisturbed.history.weights[-1].items():
        assert torch.equal(rest.history.weights[-1][name], weight)
