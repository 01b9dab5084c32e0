"""Steps of several rounds: which rollouts there are, what is learned from them, and what the belief is told."""

# Shapes: B = 4 tasks per step, G = 4 rollouts of each on average, R rows.

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from bots_lightning.algorithms import GRPO, PPO, Experience, RolloutGroups, StepContext
from bots_lightning.allocation import Allocation, FixedAllocation, PilotCommitAllocation, SequentialAllocation
from bots_lightning.beliefs import BetaBelief, Evidence
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.rewards import Outcomes
from bots_lightning.selection import ThompsonSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import DynamicSampling
from bots_lightning.training.batch import ScoredBatch
from bots_lightning.training.rounds import joined, next_round

B, G = 4, 4
UNTIL_MIXED = SequentialAllocation(2, max_generations=8, min_chance=0.0)


class Watched(GRPO):
    """Keeps what every update was prepared from, and what it learned from."""

    def attach(self, *args: Any) -> None:
        super().attach(*args)
        self.updates: list[tuple[RolloutGroups, Experience]] = []

    def prepare(self, groups: RolloutGroups, context: StepContext) -> Any:
        experience, metrics = super().prepare(groups, context)
        self.updates.append((groups, experience))
        return experience, metrics


class Observing(ThompsonSelector):
    """Keeps what it is told."""

    def setup(self, *args: Any, **options: Any) -> None:
        super().setup(*args, **options)
        self.seen: list[Evidence] = []

    def observe(self, evidence: Evidence) -> None:
        self.seen.append(evidence)
        super().observe(evidence)


@pytest.fixture
def run(build: Any, new_trainer: Any) -> Any:
    """`run(allocation, steps, algorithm, **options)`: module, what its steps returned, and the data module."""

    def run(allocation: Allocation | None, steps: int = 3, algorithm: Any = Watched, **options: Any) -> Any:
        trained = {name: options.pop(name) for name in ("callbacks", "ckpt_path") if name in options}
        path = trained.pop("ckpt_path", None)
        module = build(algorithm, num_generations=G, **options)
        selector = Observing(BetaBelief(forgetting=0.0))
        tasks = TaskDataModule(ProceduralTasks(24), selector, B, steps_per_epoch=100, allocation=allocation)
        outputs: list[Any] = []
        report = module._report
        module._report = lambda *words: outputs.append(report(*words)) or outputs[-1]
        trainer = new_trainer(limit_train_batches=steps, enable_checkpointing="callbacks" in trained, **trained)
        trainer.fit(module, tasks, ckpt_path=path)
        return module, outputs, tasks

    return run


def rows_of_tasks(output: Any, name: str = "completions") -> list[list[Any]]:
    rows = list(zip(output[name], output["group_of_row"].tolist(), strict=True))
    return [[value for value, group in rows if group == k] for k in range(len(output["tasks"]))]


# --- one run after the other ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [FixedAllocation(), SequentialAllocation(3, min_chance=0.0)], ids=["at once", "others"]
)
def test_completions_are_those_that_the_task_would_have_had_at_once(run: Any, other: Allocation) -> None:
    _, (in_rounds,), _ = run(UNTIL_MIXED, 1)
    _, (at_once,), _ = run(other, 1)
    counts = []
    for few, many in zip(rows_of_tasks(in_rounds), rows_of_tasks(at_once), strict=True):
        shared = min(len(few), len(many))
        assert few[:shared] == many[:shared]
        counts.append(len(few))
    assert in_rounds["tasks"] == at_once["tasks"]
    assert len(set(counts)) > 1
    assert min(counts) == 2


def test_groups_go_on_until_they_are_mixed_and_evidence_comes_once(run: Any) -> None:
    module, outputs, tasks = run(UNTIL_MIXED, 4)
    assert len(tasks.selector.seen) == 4
    rollouts = 0
    for output, seen in zip(outputs, tasks.selector.seen, strict=True):
        rewards = rows_of_tasks(output, "rewards")
        counts = [len(of_task) for of_task in rewards]
        assert seen.counts.tolist() == counts
        assert seen.successes.tolist() == [sum(of_task) for of_task in rewards]
        assert sum(counts) <= B * G
        for of_task in rewards:
            assert len(of_task) == 2 or len(set(of_task[: len(of_task) // 2])) == 1 or sum(counts) == B * G
        rollouts += sum(counts)
    assert module.progress.rollouts == rollouts
    totals = np.zeros((2, 24))
    for seen in tasks.selector.seen:
        np.add.at(totals, (slice(None), seen.indices), [seen.successes, seen.counts])
    np.testing.assert_allclose(tasks.selector.belief.alpha, 1 + totals[0])
    np.testing.assert_allclose(tasks.selector.belief.beta, 1 + totals[1] - totals[0])
    (forecast,) = tasks.forecasts
    assert sorted(forecast.evidence.counts) == sorted(tasks.selector.seen[-1].counts)


@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
def test_rows_are_compared_with_their_task_up_to_their_round(run: Any, estimator: str) -> None:
    module, _, _ = run(UNTIL_MIXED, 4, scale_rewards="none", adv_estimator=estimator)
    later = 0
    for groups, experience in module.algorithm.updates:
        rows = list(range(len(groups.rewards)))
        group, number, rewards = (x.tolist() for x in (groups.group_of_row, groups.round_of_row, groups.rewards))
        for row in rows:
            so_far = [rewards[i] for i in rows if group[i] == group[row] and number[i] <= number[row]]
            n = len(so_far)
            advantage = rewards[row] - sum(so_far) / n
            advantage *= n / (n - 1) if estimator == "rloo" else 1
            assert float(experience.advantages[row]) == pytest.approx(advantage * G / n, abs=1e-6)
            later += number[row] > 0 and advantage != 0
        assert all(first <= second for first, second in pairwise(group))
    assert later > 0


def test_a_pilot_commits_the_rest(run: Any) -> None:
    module, outputs, _ = run(PilotCommitAllocation(2, 0.4, 0.6), 4)
    committed = 0
    for (groups, _), output in zip(module.algorithm.updates, outputs, strict=True):
        pilots = [rewards[:2] for rewards in rows_of_tasks(output, "rewards")]
        within = [sum(pilot) == 1 for pilot in pilots]
        counts = torch.bincount(groups.group_of_row).tolist()
        assert [count > 2 for count in counts] == within
        assert sum(counts) == (B * G if any(within) else B * 2)
        committed += any(within)
    assert committed > 0


def test_ppo_learns_in_rounds(run: Any) -> None:
    module, outputs, _ = run(UNTIL_MIXED, 2, algorithm=PPO)
    assert module.progress.rollouts == sum(len(output["completions"]) for output in outputs) > 2 * B * 2


def test_rounds_and_dynamic_sampling(run: Any) -> None:
    """Each batch has rounds; groups that are left over keep theirs."""
    module, _, tasks = run(UNTIL_MIXED, 3, dynamic_sampling=DynamicSampling(max_batches=3))
    batches = len(tasks.selector.seen)
    assert batches > 3
    assert 2 * B * batches < module.progress.rollouts <= B * G * batches
    assert all(len(groups) == B for groups, _ in module.algorithm.updates)
    assert max(int(groups.round_of_row.max()) for groups, _ in module.algorithm.updates) > 0


@pytest.mark.parametrize("dynamic", [None, DynamicSampling(max_batches=3)], ids=["plain", "dynamic sampling"])
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(run: Any, tmp_path: Path, dynamic: Any) -> None:
    def saved(folder: str, ckpt_path: str | None = None) -> Any:
        save = ModelCheckpoint(tmp_path / folder, every_n_train_steps=2, save_top_k=-1)
        return run(UNTIL_MIXED, 4, callbacks=[save], ckpt_path=ckpt_path, dynamic_sampling=dynamic)

    whole, undisturbed, tasks = saved("whole")
    path = min((tmp_path / "whole").iterdir(), key=lambda path: path.stat().st_mtime)
    resumed, rest, resumed_tasks = saved("resumed", str(path))
    assert [output["completions"] for output in rest] == [output["completions"] for output in undisturbed[2:]]
    assert resumed.progress == whole.progress
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight)
    np.testing.assert_array_equal(resumed_tasks.selector.belief.alpha, tasks.selector.belief.alpha)


def test_asynchronous_rollouts_are_refused(run: Any) -> None:
    with pytest.raises(ValueError, match=r"SequentialAllocation asks for further rollouts .* Set max_staleness=0"):
        run(UNTIL_MIXED, 1, max_staleness=1)


def test_an_allocation_that_does_not_fit_is_refused_before_the_first_step(run: Any) -> None:
    with pytest.raises(ValueError, match="first_generations=4; expected at least 2 and less than 4"):
        run(SequentialAllocation(4), 1)


# --- one round after the other --------------------------------------------------------------------------------------


def scored(make_rollouts: Any, batch: TaskBatch, rewards: list[float], lengths: list[int]) -> ScoredBatch:
    """A batch whose completions are called by task and number."""
    rows = [(k, batch.starts[k] + j) for k, count in enumerate(batch.counts) for j in range(count)]
    groups = RolloutGroups(
        make_rollouts(lengths, [2] * len(rows), seed=len(rows)),
        torch.tensor(rewards),
        torch.tensor([k for k, _ in rows]),
        torch.full((len(batch),), 7),
    )
    names = [f"{batch.indices[k]}:{number}" for k, number in rows]
    scores = np.array([rewards, [10 * reward for reward in rewards]])
    return ScoredBatch(batch.tasks, groups, names, scores, np.array(rewards), Outcomes())


@pytest.fixture
def batch() -> TaskBatch:
    pool = ProceduralTasks(24).load()
    return TaskBatch([5, 9, 2], [pool[i] for i in (5, 9, 2)], [4, 0, 2], [2, 2, 2])


@pytest.fixture
def tasks() -> TaskDataModule:
    data = TaskDataModule(ProceduralTasks(24), ThompsonSelector(BetaBelief()), 3, allocation=UNTIL_MIXED)
    data.num_generations = G
    data.setup()
    return data


def test_rounds_are_joined_task_by_task(make_rollouts: Any, batch: TaskBatch) -> None:
    first = scored(make_rollouts, batch, [0.0, 0.0, 1.0, 0.0, 1.0, 1.0], [1, 2, 3, 1, 2, 3])
    again = TaskBatch([5, 2], [batch.tasks[0], batch.tasks[2]], [4, 2], [2, 1], [2, 2])
    more = scored(make_rollouts, again, [1.0, 0.0, 0.5], [5, 2, 4])
    both = joined(first, more, batch, again, pad_token_id=0)
    assert both.completions == ["5:0", "5:1", "5:2", "5:3", "9:0", "9:1", "2:0", "2:1", "2:2"]
    assert both.groups.group_of_row.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert both.groups.round_of_row.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 1]
    assert both.groups.rewards.tolist() == both.evidence.tolist() == [0, 0, 1, 0, 1, 0, 1, 1, 0.5]
    assert both.scores[1].tolist() == [0, 0, 10, 0, 10, 0, 10, 10, 5]
    assert both.groups.iterations.tolist() == [7, 7, 7]
    assert both.groups.rollouts.lengths.tolist() == [1, 2, 5, 2, 3, 1, 2, 3, 4]
    assert both.counts.tolist() == [4, 2, 3]
    third = TaskBatch([2], [batch.tasks[2]], [2], [1], [3])
    last = joined(both, scored(make_rollouts, third, [0.0], [1]), batch, third, pad_token_id=0)
    assert last.completions[-1] == "2:3"
    assert last.groups.round_of_row.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 1, 2]


def test_the_next_round_is_of_tasks_in_their_places(
    make_rollouts: Any, batch: TaskBatch, tasks: TaskDataModule
) -> None:
    first = scored(make_rollouts, batch, [0.0, 0.0, 1.0, 0.0, 1.0, 1.0], [1] * 6)
    again = next_round(batch, first, tasks)
    assert again is not None
    assert (again.indices, again.positions, again.counts, again.starts) == ([5, 2], [4, 2], [2, 2], [2, 2])
    assert again.tasks == [batch.tasks[0], batch.tasks[2]]
    tasks.allocation = FixedAllocation()
    assert next_round(batch, first, tasks) is None


def test_the_allocation_sees_the_belief_of_before_and_all_rewards(
    make_rollouts: Any, batch: TaskBatch, tasks: TaskDataModule
) -> None:
    seen = []

    class Asking(SequentialAllocation):
        def more(self, tried: Any, budget: int) -> Any:
            seen.append((tried, budget))
            return super().more(tried, budget)

    tasks.allocation = Asking(2, min_chance=0.0)
    tasks.selector.observe(Evidence(np.array([5]), np.array([3.0]), np.array([4.0])))
    believed = tasks.selector.forecast(np.array(batch.indices))
    assert believed is not None
    first = scored(make_rollouts, batch, [0.0, 1.0, 0.5, 0.5, 1.0, float("nan")], [1] * 6)
    next_round(batch, first, tasks)
    ((tried, budget),) = seen
    assert budget == 3 * G - 6
    np.testing.assert_allclose(tried.alpha, believed[0] + [1, 1, 1])
    np.testing.assert_allclose(tried.beta, believed[1] + [1, 1, 0])
    assert tried.counts.tolist() == [2, 2, 2]
    assert tried.pass_rates.tolist() == [0.5, 0.5, 1.0]
    assert tried.mixed.tolist() == [True, False, False]


@pytest.mark.parametrize("more", [[1, -1, 0], [7, 0, 0], [1, 1], [1.0, 0.0, 0.0]])
def test_what_is_no_further_round_is_refused(
    make_rollouts: Any, batch: TaskBatch, tasks: TaskDataModule, more: list[Any]
) -> None:
    class Wrong(SequentialAllocation):
        def more(self, tried: Any, budget: int) -> Any:
            return np.array(more)

    tasks.allocation = Wrong(2)
    first = scored(make_rollouts, batch, [0.0] * 6, [1] * 6)
    with pytest.raises(ValueError, match=r"Wrong.more gave .* for 3 tasks; expected .* no more than 6 together"):
        next_round(batch, first, tasks)
