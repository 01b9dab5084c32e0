"""Held-out scores, their history, and forgetting; all count the function that `evidence` names."""

# Shapes: K tasks, n completions of each.

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from bots_lightning.algorithms import GRPO
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import ProceduralTasks, TaskPool
from bots_lightning.training import Evaluation
from bots_lightning.training.evaluation import gathered


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_generations": 0}, "num_generations=0; expected at least 1"),
        ({"num_generations": 2, "pass_k": 3}, "pass_k=3; expected at least 1 and at most 2"),
        ({"pass_k": 0}, "pass_k=0; expected at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0; expected a finite number, at least 0"),
        ({"temperature": 0.0}, "temperature=0 with num_generations=4 would count 4 equal completions"),
    ],
)
def test_numbers_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
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


def grouped_pool(seed: int) -> TaskPool:
    """Four tasks in two groups."""
    pool = ProceduralTasks(4, seed=seed).load()
    groups = pa.array(["a", "a", "b", "b"])
    return TaskPool(pool.table.set_column(pool.table.column_names.index("group"), "group", groups))


def evaluate(evaluation: Evaluation, pool: TaskPool, evidence: list[list[float]], iteration: int) -> dict[str, float]:
    evaluation.begin({"held": pool}, torch.device("cpu"))
    order = [2, 0, 3, 1]  # tasks may come in any order
    batch = TaskBatch(order, [pool[row] for row in order], order, [2] * 4)
    evaluation.add(0, batch, np.array([evidence[row] for row in order]).flatten())
    return {name: score for name, score in evaluation.finish(iteration).items() if "forgetting" in name}


RIGHT, WRONG, FIRST = [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]


def test_forgetting_of_a_pool_and_of_its_groups_by_hand() -> None:
    """Each half of a solved task is compared where the other has solved it."""
    evaluation, pool = Evaluation(num_generations=2), grouped_pool(1)
    assert evaluate(evaluation, pool, [RIGHT, WRONG, RIGHT, RIGHT], 0) == {}
    found = evaluate(evaluation, pool, [WRONG, RIGHT, RIGHT, FIRST], 5)
    # Task 3: the first half compares the second, which is lost; the second half compares the first, which is not.
    assert found == pytest.approx(
        {"eval/held/forgetting": 3 / 6, "eval/held/a/forgetting": 2 / 2, "eval/held/b/forgetting": 1 / 4}
    )
    assert evaluation.history[1]["scores"].items() >= found.items()
    again = evaluate(evaluation, pool, [WRONG, WRONG, RIGHT, RIGHT], 6)
    assert again == pytest.approx(
        # Task 3: the second half was right once in two evaluations that the first half solved, and is right now.
        {"eval/held/forgetting": 3.5 / 8, "eval/held/a/forgetting": 4 / 4, "eval/held/b/forgetting": (0 - 1 / 2) / 4}
    )


def test_forgetting_continues_from_a_checkpoint_and_not_with_other_tasks() -> None:
    evaluation, pool, file = Evaluation(num_generations=2), grouped_pool(1), io.BytesIO()
    evaluate(evaluation, pool, [RIGHT, WRONG, RIGHT, RIGHT], 0)
    torch.save(evaluation.state_dict(), file)
    file.seek(0)
    resumed, other = Evaluation(num_generations=2), Evaluation(num_generations=2)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    other.load_state_dict(resumed.state_dict())
    rest = [WRONG, RIGHT, RIGHT, FIRST]
    assert evaluate(resumed, pool, rest, 5) == evaluate(evaluation, pool, rest, 5) != {}
    assert resumed.history == evaluation.history
    assert evaluate(other, grouped_pool(2), rest, 5) == {}


def test_a_checkpoint_of_an_earlier_version_has_the_history_only() -> None:
    evaluation, history = Evaluation(num_generations=2), [{"iteration": 0, "overall": 0.5, "scores": {}}]
    evaluation.load_state_dict(list(history))
    assert evaluation.history == history
    assert evaluate(evaluation, grouped_pool(1), [RIGHT] * 4, 5) == {}


def test_ranks_put_together_what_each_knows_of_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    nan = np.nan
    theirs = {"held": np.array([[nan, nan], [0.5, nan]])}
    monkeypatch.setattr("bots_lightning.training.evaluation.ranks.world_size", lambda: 2)
    monkeypatch.setattr("bots_lightning.training.evaluation.ranks.gathered", lambda mine: [mine, theirs])
    both = gathered({"held": np.array([[0.0, 1.0], [nan, nan]])})
    np.testing.assert_array_equal(both["held"], [[0.0, 1.0], [0.5, nan]])


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


def test_it_may_have_a_temperature_of_its_own(build: Any, new_trainer: Any) -> None:
    """At 0, evaluations and predictions take the most likely token: whatever the seed, and one completion is enough."""
    said = []
    for seed in (1, 2):
        module, _ = module_of(build, num_generations=1, eval_num_generations=1, seed=seed)
        module.evaluation = Evaluation(num_generations=1, temperature=0.0)
        (batch,) = new_trainer().predict(module, data())
        said.append(batch["completions"])
    assert said[0] == said[1]
    assert module.sampler.sampling.temperature == 1.0  # that of training
    module.evaluation = Evaluation(num_generations=1)
    (sampled,) = new_trainer().predict(module, data())
    assert sampled["completions"] != said[0]
