"""The belief and held-out scores count the function that `evidence` names; the policy learns from the sum of all."""

# Shapes: B tasks, G rollouts per task.

from __future__ import annotations

from typing import Any

import pytest
import torch

from bots_lightning.algorithms import GRPO
from bots_lightning.beliefs import BetaBelief
from bots_lightning.data import TaskDataModule
from bots_lightning.selection import ThompsonSelector
from bots_lightning.tasks import ProceduralTasks


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
    return TaskDataModule(ProceduralTasks(24), ThompsonSelector(BetaBelief()), 4, heldout, steps_per_epoch=1)


def module_of(build: Any, **options: Any) -> tuple[Any, HasA]:
    right = HasA()
    return build(GRPO, reward_funcs=[length, right], reward_range=(0.0, 2.0), **options), right


def test_one_function_is_the_evidence_and_the_policy_learns_from_the_sum(build: Any, new_trainer: Any) -> None:
    module, right = module_of(build, evidence="HasA")
    steps: list[Any] = []
    module.on_train_batch_end = lambda outputs, batch, batch_idx: steps.append((outputs, list(right.last)))
    tasks, trainer = data(), new_trainer(num_sanity_val_steps=0, limit_val_batches=0)
    trainer.fit(module, tasks)
    (outputs, said), (forecast,) = steps[0], tasks.forecasts
    expected = torch.tensor(said).reshape(4, 4)
    assert 0 < expected.mean() < 1
    torch.testing.assert_close(outputs["evidence"], expected)
    ids = [len(ids) for ids in module.tokenizer(outputs["completions"], add_special_tokens=False)["input_ids"]]
    with_stop = torch.tensor(ids).reshape(4, 4) + outputs["finished"].reshape(4, 4)
    torch.testing.assert_close(outputs["rewards"], 0.1 * with_stop + expected)
    order = torch.tensor([tasks.require_pool().ids.index(task.id) for task in outputs["tasks"]]).argsort()
    assert forecast.evidence.successes.tolist() == expected.sum(dim=1)[order].tolist()
    assert forecast.evidence.interior.tolist() == [0.0] * 4


def test_held_out_scores_and_predictions_are_of_the_evidence(build: Any, new_trainer: Any) -> None:
    module, right = module_of(build, evidence=1)
    (scores,) = new_trainer().validate(module, data(), verbose=False)
    assert scores["eval/heldout/avg@2"] == pytest.approx(sum(right.last) / 16)
    assert 0 < scores["eval/heldout/avg@2"] < 1
    (batch,) = new_trainer().predict(module, data())
    assert batch["evidence"].flatten().tolist() == right.last
    assert (batch["rewards"] > batch["evidence"]).all()


def test_by_default_it_is_the_sum_in_its_range(build: Any, new_trainer: Any) -> None:
    module, _ = module_of(build)
    (batch,) = new_trainer().predict(module, data())
    torch.testing.assert_close(batch["evidence"], batch["rewards"] / 2)


def test_a_name_that_is_none_is_refused_when_the_module_is_built(build: Any) -> None:
    with pytest.raises(ValueError, match=r"evidence='right' names none of reward_funcs; .*0: length, 1: HasA"):
        module_of(build, evidence="right")
