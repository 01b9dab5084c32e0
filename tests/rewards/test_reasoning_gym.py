"""The generators' own verifiers, grading answers in other processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bots_lightning.rewards import Scorer
from bots_lightning.rewards.graded import Outcomes
from bots_lightning.rewards.reasoning_gym import ReasoningGymReward, score
from bots_lightning.tasks import Task
from bots_lightning.tasks.reasoning_gym import ReasoningGymTasks

GENERATORS: dict[str, Any] = {
    "chain_sum": {"max_terms": 3},
    "knights_knaves": None,
    "rearc": None,  # whose entries hold tuples that its verifier needs
    "countdown": {"max_numbers": 4},  # any expression of the right value
    "decimal_arithmetic": None,  # whose verifier reads its settings
}


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    pool = ReasoningGymTasks(GENERATORS, num_tasks=10).load()
    return [pool[i] for i in range(10)]


@pytest.fixture(scope="module")
def reward() -> Iterator[ReasoningGymReward]:
    """One pool of processes for all tests."""
    grader = ReasoningGymReward(num_workers=1, timeout_seconds=60)
    yield grader
    grader.close()


def rewards(grader: ReasoningGymReward, tasks: list[Task], completions: list[str]) -> list[float | None]:
    names = ("generator", "settings", "entry")
    columns = {name: [task.columns[name] for task in tasks] for name in names}
    return grader(["?"] * len(tasks), completions, [task.answer for task in tasks], **columns)


def test_every_generator_gives_its_own_answer_1_and_wrong_ones_less(
    reward: ReasoningGymReward, tasks: list[Task]
) -> None:
    assert rewards(reward, tasks, [f"so <answer>{task.answer}</answer>" for task in tasks]) == [1.0] * 10
    assert reward.outcomes == Outcomes(items=10)
    wrong = rewards(reward, tasks, ["<answer>-77777</answer>"] * 10)
    assert all(value is not None and 0 <= value < 0.5 for value in wrong)
    swapped = [tasks[i - 5] for i in range(10)]  # the other task's answer of the same generator
    crossed = rewards(reward, tasks, [f"<answer>{task.answer}</answer>" for task in swapped])
    assert all(value is not None and value < 1 for value in crossed)


def test_other_answers_can_be_right(tasks: list[Task]) -> None:
    task = next(task for task in tasks if task.columns["generator"] == "countdown")
    item = (task.columns["generator"], task.columns["settings"], task.columns["entry"])
    assert score((*item, f"({task.answer})")) == 1.0
    assert score((*item, f"({task.answer}) + 0")) < 1.0  # which uses a number that was not given


def test_the_settings_reach_the_verifier() -> None:
    entry = repr({"question": "?", "answer": "0.1234", "metadata": {}})
    near = "0.1235"
    coarse, fine = json.dumps({"max_num_decimal_places": 2}), json.dumps({"max_num_decimal_places": 6})
    assert score(("decimal_arithmetic", coarse, entry, near)) > score(("decimal_arithmetic", fine, entry, near))


def test_an_answer_that_is_not_where_it_should_be_is_worth_0(reward: ReasoningGymReward, tasks: list[Task]) -> None:
    completions = [tasks[0].answer, f"<answer>{tasks[0].answer}</answer>"]
    assert rewards(reward, [tasks[0]] * 2, completions) == [0.0, 1.0]
    assert reward.outcomes == Outcomes(items=1)


def test_without_a_tag_the_whole_completion_is_the_answer(tasks: list[Task]) -> None:
    bare = ReasoningGymReward(tag=None, threshold=1.0, num_workers=1, timeout_seconds=60)
    answer = tasks[0].answer
    graded = rewards(bare, [tasks[0]] * 3, [answer, f"<think>7</think>{answer}", f"{answer} or not"])
    bare.close()
    assert graded == [1.0, 1.0, 0.0]  # the verifier itself gives the last one part of the credit


def test_partial_credit_is_kept_without_a_threshold(reward: ReasoningGymReward, tasks: list[Task]) -> None:
    completions = [f"<answer>{text}</answer>" for text in (tasks[0].answer, f"{tasks[0].answer} or not")]
    full, part = rewards(reward, [tasks[0]] * 2, completions)
    assert full == 1.0
    assert part is not None
    assert 0 < part < 1


def test_answers_that_a_verifier_fails_at_are_counted(reward: ReasoningGymReward) -> None:
    pool = ReasoningGymTasks({"prime_factorization": None}, num_tasks=2).load()
    two = [pool[0], pool[1]]
    assert rewards(reward, two, ["<answer>x</answer>", f"<answer>{two[1].answer}</answer>"]) == [0.0, 1.0]
    assert reward.outcomes == Outcomes(items=2, errors=1)


def test_tasks_of_other_sources_are_left_to_other_functions(reward: ReasoningGymReward, tasks: list[Task]) -> None:
    other = Task("other", "1+1=", "2", columns=dict.fromkeys(("generator", "settings", "entry")))
    completions = [f"<answer>{tasks[0].answer}</answer>", "<answer>2</answer>"]
    assert rewards(reward, [tasks[0], other], completions) == [1.0, None]
    assert reward(["?"], ["<answer>2</answer>"], ["2"]) == [None]
    assert reward.outcomes == Outcomes()


def test_the_scorer_hands_over_all_that_the_verifiers_need(reward: ReasoningGymReward, tasks: list[Task]) -> None:
    completions = [text for task in tasks for text in (f"<answer>{task.answer}</answer>", "no answer")]
    assert Scorer([reward])(tasks, completions).tolist() == [1.0, 0.0] * 10


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_lies_in_the_range_of_rewards(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"threshold={threshold}; expected a number in \(0, 1\]"):
        ReasoningGymReward(threshold=threshold)
