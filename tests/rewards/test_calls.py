"""What reward functions may return and raise, and how the errors of those that do otherwise read."""

# Shapes: B tasks, n_b rollouts of task b, R = Σ n_b rows.

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.rewards import ChatReward, GradedReward, RewardFunctionError, RewardPoolError, Scorer, adapted
from bots_lightning.tasks import Task

TASKS = [Task("first", "2+3=", "5"), Task("second", "2*3=", "6")]
EXPECTED = "expected a list of 2 numbers, one for each completion (None where it does not apply)"


def scores(result: Any) -> list[float]:
    """What becomes of a function's result for one completion of each of two tasks."""

    def given(**_: Any) -> Any:
        return result

    return Scorer([given], reward_range=(-10, 10)).scores(TASKS, [1, 1], ["5", "0"]).ravel().tolist()


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        (1, 0),
        [True, False],
        np.array([1.0, 0.0], dtype=np.float32),
        np.array([True, False]),
        [np.float32(1), np.bool_(False)],
        torch.tensor([1.0, 0.0], requires_grad=True),
        torch.tensor([1, 0], dtype=torch.bfloat16),
        [torch.tensor(1.0), np.array(0)],
    ],
)
def test_numbers_of_python_numpy_and_torch_are_rewards(result: Any) -> None:
    assert scores(result) == [1.0, 0.0]


def rewards_one_by_one() -> Iterator[float]:
    yield from (1.0, 0.0)


@pytest.mark.parametrize(
    ("result", "seen"),
    [
        (None, "None"),
        (0.5, "0.5"),
        (np.float64(0.5), "0.5"),
        (torch.tensor(0.5), "0.5"),
        ("10", "'10'"),
        (b"10", "b'10'"),
        ({"first": 1.0, "second": 0.0}, "{'first': 1.0, 'second': 0.0}"),
        ({1.0, 0.0}, "{0.0, 1.0}"),
    ],
)
def test_a_result_that_is_no_list_is_named(result: Any, seen: str) -> None:
    with pytest.raises(RewardFunctionError) as caught:
        scores(result)
    assert str(caught.value) == f"reward function given returned {seen}; {EXPECTED}."


def test_a_generator_is_no_list() -> None:
    with pytest.raises(RewardFunctionError, match=r"given returned <generator ob.*expected a list of 2 numbers"):
        scores(rewards_one_by_one())


@pytest.mark.parametrize(
    ("result", "seen"),
    [
        ([1.0, "0"], "'0'"),
        ([1.0, [0.0]], r"\[0.0\]"),
        ([1.0, {"score": 0.0}], r"\{'score': 0.0\}"),
        (np.zeros((2, 1)), r"\[0.0\]"),
        ([1.0, 1j], "1j"),
        ([1.0, torch.tensor(torch.inf)], "inf"),
    ],
)
def test_what_is_no_number_is_shown_with_its_task(result: Any, seen: str) -> None:
    task = "first" if isinstance(result, np.ndarray) else "second"
    with pytest.raises(
        RewardFunctionError, match=rf"given returned {seen} for task '{task}'; expected a finite number"
    ):
        scores(result)


# --- coroutines -------------------------------------------------------------------------------------------------------


async def asks_a_server(completions: list[str], **_: Any) -> list[float]:
    return [1.0] * len(completions)


class AsksAServer:
    async def __call__(self, completions: list[str], **_: Any) -> list[float]:
        return [1.0] * len(completions)


@pytest.mark.parametrize("function", [asks_a_server, AsksAServer()])
def test_coroutine_functions_are_refused_when_a_run_is_built(function: Any) -> None:
    with pytest.raises(ValueError, match=r"is a coroutine function. Nobody awaits it: .*asyncio.run"):
        Scorer([function])


def test_a_coroutine_that_a_function_returns_is_told_and_closed() -> None:
    with pytest.raises(
        RewardFunctionError, match=r"<lambda> returned a coroutine. Nobody awaits it: .*expected a list"
    ):
        Scorer([lambda **columns: asks_a_server(**columns)])(TASKS, ["5", "0"])
    with pytest.raises(RewardFunctionError, match=r"returned a coroutine. Nobody awaits it.*\(for task 'first'\)"):
        Scorer([lambda solution_str, ground_truth: asks_a_server([solution_str])])(TASKS, ["5", "0"])


def test_the_remedy_works() -> None:
    run = Scorer([lambda **columns: asyncio.run(asks_a_server(**columns))])
    assert run(TASKS, ["5", "0"]).tolist() == [1.0, 1.0]


# --- failures ---------------------------------------------------------------------------------------------------------


def failing(**columns: Any) -> Any:
    return columns["difficulty"]


def test_a_failure_names_function_and_tasks_and_keeps_its_cause() -> None:
    with pytest.raises(RewardFunctionError) as caught:
        Scorer([failing])(TASKS, list("abcd"))
    assert str(caught.value) == (
        "reward function failing raised KeyError: 'difficulty' "
        "for one of 4 completions of the 2 tasks 'first', 'second'"
    )
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(RewardFunctionError, match=r"for task 'second'$"):
        Scorer([failing])(TASKS[1:], list("ab"))
    many = [Task(f"t{i}", "?", "1") for i in range(5)]
    with pytest.raises(RewardFunctionError, match=r"5 completions of the 5 tasks 't0', 't1', 't2', …$"):
        Scorer([failing])(many, list("abcde"))


def test_a_failure_in_verls_signature_names_its_task() -> None:
    def compute_score(solution_str: str, ground_truth: str) -> float:
        return 1 / (int(solution_str) - int(ground_truth))

    with pytest.raises(RewardFunctionError) as caught:
        Scorer([compute_score], reward_range=(-9, 9))(TASKS, ["4", "6"])
    assert str(caught.value) == (
        "reward function compute_score raised ZeroDivisionError: division by zero for task 'second'"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Grader(GradedReward):
    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure

    def __call__(self, prompts: Any, completions: Any, answer: Any, **columns: Any) -> list[float | None]:
        raise self.failure


@pytest.mark.parametrize("failure", [ValueError("the answer of task 'x' is odd"), RewardPoolError("all gone")])
def test_the_failure_of_a_graded_reward_stays_what_it_is_and_has_a_note(failure: Exception) -> None:
    with pytest.raises(type(failure)) as caught:
        Scorer([Grader(failure)])(TASKS[:1], ["5"])
    assert caught.value is failure
    assert caught.value.__notes__[0].startswith("reward function Grader raised")
    assert caught.value.__notes__[0].endswith("for task 'first'")


# --- arguments --------------------------------------------------------------------------------------------------------


def test_a_function_gets_what_it_names() -> None:
    def few(completions: list[str], answer: list[str]) -> list[float]:
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    def fewer(completions: list[str], *, level: int = 3) -> list[float]:
        return [level / 10] * len(completions)

    assert Scorer([few])(TASKS, ["5", "5"]).tolist() == [1.0, 0.0]
    assert Scorer([fewer])(TASKS, ["5", "5"]).tolist() == [0.3, 0.3]


@pytest.mark.parametrize("wrap", [lambda function: function, ChatReward])
def test_a_function_that_needs_more_than_there_is_is_told_what_there_is(wrap: Callable[..., Any]) -> None:
    def scheduled(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(
        RewardFunctionError,
        match=r"scheduled needs trainer_state; it can be given answer, completions, group, prompts, task_id\. Add",
    ):
        Scorer([wrap(scheduled)])(TASKS, ["5", "5"])


def test_tokens_are_given_where_they_are_known_but_not_to_graded_rewards() -> None:
    class Graded(GradedReward):
        def __call__(self, prompts: Any, completions: Any, answer: Any, **columns: Any) -> list[float | None]:
            return [float("completion_ids" in columns)] * len(completions)

    def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [len(ids) / 10 for ids in completion_ids]

    found = Scorer([length, Graded()]).scores(TASKS, [1, 1], ["a", "bb"], [[7, 1], [8, 8, 1]])
    assert found.tolist() == [[0.2, 0.3], [0.0, 0.0]]
    with pytest.raises(RewardFunctionError, match="length needs completion_ids"):
        Scorer([length]).scores(TASKS, [1, 1], ["a", "bb"])


def test_an_adapted_function_is_adapted_once() -> None:
    for function in (failing, ChatReward(failing)):
        assert adapted(function) is function
