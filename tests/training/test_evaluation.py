"""Held-out scores and predictions count the function that `evidence` names."""

# Shapes: K tasks, n completions of each.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training import Evaluation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_generations": 0}, "num_generations=0; expected at least 1"),
        ({"num_generations": 2, "pass_k": 3}, "pass_k=3; expected at least 1 and at most 2"),
        ({"pass_k": 0}, "pass_k=0; expected at least 1"),
    ],
)
def test_numbers_out_of_bounds_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation(**options)


def test_scores_of_two_pools_by_hand_and_their_history() -> None:
    pools = {"one": ProceduralTasks(2, seed=1).load(), "other": ProceduralTasks(2, seed=2).load()}
    evaluation = Evaluation(num_generations=2, pass_k=2)
    evaluation.begin(pools, torch.device("cpu"))
    for number, evidence in enumerate(([1.0, 0.0, 0.0, 0.0], [1.0, 1.0, np.nan, 0.5])):
        pool = list(pools.values())[number]
        for row in range(2):  # a task at a time
            batch = TaskBatch([row], [pool[row]], [row], [2])
            evaluation.add(number, batch, np.array(evidence[2 * row : 2 * row + 2]))
    scores = evaluation.finish(7)
    assert scores["eval/one/avg@2"] == pytest.approx((1 / 2 + 0) / 2)
    assert scores["eval/one/pass@2"] == pytest.approx((1 + 0) / 2)
    assert scores["eval/other/avg@2"] == pytest.approx((1 + 0.5) / 2)
    overall = (scores["eval/one/avg@2"] + scores["eval/other/avg@2"]) / 2
    assert evaluation.history == [{"iteration": 7, "overall": overall, "scores": scores}]


# --- in the loops of Lightning --------------------------------------------------------------------------------------


class HasA:
    """1 for completions with the letter a; keeps what it said in its last call."""

    def __init__(self) -> None:
        self.last: list[float] = []

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        self.last = [float("a" in completion) for completion in completions]
        return self.last


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [0.1 * len(ids) for ids in completion_ids]


def data() -> TaskDataModule:
    heldout = {"heldout": ProceduralTasks(8, split="heldout")}
    return TaskDataModule(ProceduralTasks(24), UniformSelector(), 4, heldout)


def module_of(build: Any, **options: Any) -> tuple[Any, HasA]:
    right = HasA()
    return build(GRPO, reward_funcs=[length, right], reward_range=(0.0, 2.0), **options), right


def test_held_out_scores_and_predictions_are_of_the_evidence(build: Any, new_trainer: Any) -> None:
    module, right = module_of(build, evidence=1)
    (scores,) = new_trainer().validate(module, data(), verbose=False)
    assert scores["eval/heldout/avg@2"] == pytest.approx(sum(right.last) / 16)
    assert 0 < scores["eval/heldout/avg@2"] < 1
    (batch,) = new_trainer().predict(module, data())
    assert batch["counts"] == [4] * 24
    assert batch["evidence"].tolist() == right.last
    assert (batch["rewards"] > batch["evidence"]).all()


def test_by_default_it_is_the_sum_in_its_range(build: Any, new_trainer: Any) -> None:
    module, _ = module_of(build)
    (batch,) = new_trainer().predict(module, data())
    torch.testing.assert_close(batch["evidence"], batch["rewards"] / 2)
