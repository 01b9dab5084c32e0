"""A run whose tasks get unequal numbers of rollouts: what callbacks, belief and files make of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from allocations import InTurn
from numbered_tasks import assert_same

from bots_lightning.algorithms import GRPO, PPO
from bots_lightning.beliefs import BetaBelief
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import ThompsonSelector
from bots_lightning.tasks import ProceduralTasks
from callbacks import BeliefQuality, CompletionsLog, EffectiveTaskRatio, SelectionOverhead, StalledLearning

STEPS, TASKS = 3, 8
COUNTS = [2, 3, 4, 5] * 2  # of at most 4 on average


def tasks() -> TaskDataModule:
    selector = ThompsonSelector(BetaBelief(forgetting=0.0))
    return TaskDataModule(ProceduralTasks(24), selector, TASKS, steps_per_epoch=STEPS, allocation=InTurn(COUNTS))


@pytest.mark.parametrize(
    ("algorithm", "options"), [(GRPO, {}), (GRPO, {"max_staleness": 1, "steps_per_generation": 2}), (PPO, {})]
)
def test_every_rollout_is_logged_counted_and_believed(
    algorithm: Any, options: dict[str, Any], build: Callable[..., Any], new_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    module, data = build(algorithm, **options), tasks()
    ratio, log = EffectiveTaskRatio(), CompletionsLog(every_n_steps=1, max_tasks=TASKS)
    new_trainer(callbacks=[ratio, BeliefQuality(), log, SelectionOverhead(), StalledLearning()]).fit(module, data)
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert module.progress.rollouts == len(rows)
    rewards: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        assert row["reward"] == float("a" in row["completion"])
        rewards.setdefault((row["iteration"], data.require_pool().ids.index(row["task_id"])), []).append(row["reward"])
    assert Counter(iteration for iteration, _ in rewards) == dict.fromkeys(range(1, STEPS + 1), TASKS)
    for iteration in range(1, STEPS + 1):
        assert [len(of_task) for (step, _), of_task in rewards.items() if step == iteration] == COUNTS
    mixed = [len(set(of_task)) > 1 for of_task in rewards.values()]
    assert 0 < sum(mixed) < len(mixed)
    assert ratio.mean == pytest.approx(np.mean(mixed))
    successes, rollouts = np.zeros((2, 24))
    for (_, index), of_task in rewards.items():
        successes[index] += sum(of_task)
        rollouts[index] += len(of_task)
    belief: Any = data.selector.belief  # type: ignore[attr-defined]
    np.testing.assert_allclose(belief.alpha, 1 + successes)
    np.testing.assert_allclose(belief.beta, 1 + rollouts - successes)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_resumed_run_equals_the_undisturbed_one(
    max_staleness: int, build: Callable[..., Any], new_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    """Also where the checkpoint holds a batch that was drawn ahead, with its numbers of rollouts."""
    path, ends = tmp_path / "second.ckpt", []
    for ckpt_path in (None, path):
        module, data, trainer = build(GRPO, max_staleness=max_staleness), tasks(), new_trainer()

        def save(module: Any = module, trainer: Any = trainer, wanted: bool = ckpt_path is None) -> None:
            if wanted and module.progress.iterations == 2:
                trainer.save_checkpoint(path)

        data.between_steps.append(save)
        trainer.fit(module, data, ckpt_path=ckpt_path)
        weights = {name: weight.clone() for name, weight in module.named_parameters() if weight.requires_grad}
        ends.append((data.state_dict(), weights, module.progress.rollouts))
    saved = torch.load(path, weights_only=True)["TaskDataModule"]
    assert len(saved["drawn"]) == len(saved["drawn_counts"]) == TASKS * max_staleness
    assert saved["drawn_counts"] == COUNTS * max_staleness
    (state, weights, rollouts), (resumed_state, resumed_weights, resumed_rollouts) = ends
    assert_same(resumed_state, state)
    assert_same(resumed_weights, weights)
    assert resumed_rollouts == rollouts
