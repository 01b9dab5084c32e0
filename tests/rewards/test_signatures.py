"""Functions in verl's signature, called as the scorer calls."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest

from bots_lightning.rewards import ChatReward, RewardFunctionError, Scorer, exact_match
from bots_lightning.rewards.answers import AnswerMatch
from bots_lightning.rewards.signatures import adapted
from bots_lightning.tasks import Task

TASKS = [
    Task("t1", "1+1=", "2", "maths", {"data_source": "sums", "extra_info": {"bonus": 0.25}}),
    Task("t2", "1+2=", "3", "maths", {"data_source": "more", "extra_info": None}),
]


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    """Half for the right answer, half for the right source, and a bonus."""
    bonus = extra_info["bonus"] if extra_info else 0.0
    return 0.5 * (solution_str == ground_truth) + 0.5 * (data_source == "sums") + bonus


def as_dictionary(solution_str: str, ground_truth: str) -> dict[str, Any]:
    return {"score": solution_str == ground_truth, "why": "compared"}


class Grader:
    def compute_score(self, data_source: str, solution_str: str, ground_truth: str, **more: Any) -> float:
        return float(sorted(more) == ["extra_info"] and data_source == "maths")


def broken(solution_str: str, ground_truth: str) -> Any:
    return {"reward": 1} if solution_str == ground_truth else "good"


def scores(function: Any, *completions: str, tasks: Any = None) -> list[float]:
    return Scorer([adapted(function)], reward_range=(0, 2))(tasks or TASKS, completions).ravel().tolist()


def test_every_argument_comes_from_its_column() -> None:
    assert scores(compute_score, "2", "9", "3", "9") == [1.25, 0.75, 0.5, 0.0]


def test_a_dictionary_counts_by_its_score() -> None:
    assert scores(as_dictionary, "2", "9") == [1.0, 0.0]


def test_the_group_is_the_data_source_where_there_is_no_such_column() -> None:
    assert scores(Grader().compute_score, "2", tasks=[Task("t", "?", "2", "maths")]) == [1.0]
    assert scores(Grader().compute_score, "2", tasks=[Task("t", "?", "2", "logic")]) == [0.0]


def test_the_ground_truth_of_verls_own_column_is_passed_as_it_is() -> None:
    def compare(solution_str: str, ground_truth: Any) -> float:
        return float(ground_truth == [[1]])

    verl = Task("t", "?", "[[1]]", columns={"reward_model": {"style": "rule", "ground_truth": [[1]]}})
    assert scores(compare, "x", tasks=[verl]) == [1.0]
    assert scores(compare, "x", tasks=[Task("t", "?", "[[1]]")]) == [0.0]


def test_none_means_not_applicable() -> None:
    def only_sums(data_source: str, solution_str: str, ground_truth: str) -> float | None:
        return 1.0 if data_source == "sums" else None

    rewards = scores(only_sums, "2", "3")
    assert rewards[0] == 1.0
    assert np.isnan(rewards[1])


def test_functions_in_trls_signature_stay_what_they_are() -> None:
    match = AnswerMatch()

    def open_ended(**columns: Any) -> list[float]:
        return [0.0]

    assert adapted(exact_match) is exact_match
    assert adapted(match) is match
    assert adapted(open_ended) is open_ended
    wrapped = adapted(compute_score)
    assert adapted(wrapped) is wrapped


def test_the_name_is_kept_for_metrics() -> None:
    assert Scorer([adapted(compute_score), exact_match]).names == ["compute_score", "exact_match"]
    assert Scorer([adapted(partial(compute_score, extra_info=None))]).names == ["partial"]


def test_an_adapted_function_can_be_sent_to_another_process() -> None:
    again = pickle.loads(pickle.dumps(adapted(as_dictionary)))
    assert again(["?"], ["2"], ["2"]) == [1.0]
    assert again.__name__ == "as_dictionary"


def test_other_signatures_are_errors_that_name_both() -> None:
    def wrong(text: str, truth: str) -> float:
        return 0.0

    with pytest.raises(
        ValueError, match=r"wrong takes \['text', 'truth'\].*prompts, completions.*solution_str, ground_truth"
    ):
        adapted(wrong)


@pytest.mark.parametrize(("completion", "seen"), [("2", r"\{'reward': 1\}"), ("9", "'good'")])
def test_a_result_without_a_score_is_an_error(completion: str, seen: str) -> None:
    with pytest.raises(ValueError, match=rf'broken returned {seen}; expected a number, or a dictionary with "score"'):
        adapted(broken)(["?"], [completion], ["2"])


# --- completions as messages ----------------------------------------------------------------------------------------


def annotated(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    return [float((message["role"], message["content"]) == ("assistant", "yes")) for (message,) in completions]


def bare(completions, **_: Any):
    return [float(completion[0]["content"] == "yes") for completion in completions]


class Annotated:
    def __call__(self, prompts: list[Any], completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
        return annotated(completions)


def of_texts(completions: list[str], **_: Any) -> list[float]:
    return [float(completion == "yes") for completion in completions]


@pytest.mark.parametrize("function", [annotated, Annotated(), ChatReward(bare), of_texts])
def test_functions_get_messages_if_they_say_so_and_texts_if_not(function: Any) -> None:
    assert scores(function, "yes", "no", "no", "yes") == [1.0, 0.0, 0.0, 1.0]


def test_a_function_for_messages_that_does_not_say_so_is_named_when_it_fails() -> None:
    with pytest.raises(
        RewardFunctionError, match=r"function bare raised TypeError: .*Its completions are texts; .*ChatReward$"
    ):
        scores(bare, "yes", "no", "no", "yes")


def test_the_name_of_a_function_for_messages_is_kept() -> None:
    assert Scorer([annotated, ChatReward(bare), Annotated()]).names == ["annotated", "bare", "Annotated"]
