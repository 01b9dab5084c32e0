"""The scorer adds reward functions up, row by row, and refuses what it cannot add."""

# Shapes: B tasks, n_b rollouts of task b, R = Σ n_b rows.

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from bots_lightning.rewards import (
    CosineLength,
    GradedReward,
    Outcomes,
    RewardFunction,
    RewardStream,
    Scorer,
    exact_match,
)
from bots_lightning.tasks import Task

NAN = float("nan")
TASKS = [Task("first", "2+3=", "5", columns={"level": 1}), Task("second", "2*3=", "6", columns={"level": 4})]


def returning(*scores: float | None) -> RewardFunction:
    """A reward function with a fixed result."""

    def fixed(**_: Any) -> list[float | None]:
        return list(scores)

    return fixed


def test_the_rows_of_a_task_follow_each_other() -> None:
    rewards = Scorer([exact_match])(TASKS, ["5", "6", "5 ", "5", "6", "0"])
    np.testing.assert_array_equal(rewards, [1, 0, 1, 0, 1, 0])


def test_functions_are_weighted_and_added() -> None:
    scorer = Scorer([returning(1, 0, 1, 0.5), returning(0, 1, 1, 1)], [2.0, -0.5], reward_range=(-1.0, 2.0))
    np.testing.assert_array_equal(scorer(TASKS, ["a", "b", "c", "d"]), [2, -0.5, 2 - 0.5, 1 - 0.5])


def test_weights_are_1_unless_given() -> None:
    scorer = Scorer([returning(0.25, 0), returning(0.5, 0.5)])
    np.testing.assert_array_equal(scorer(TASKS[:1], ["a", "b"]), [0.75, 0.5])


def test_scores_are_those_of_each_function_unweighted() -> None:
    scorer = Scorer([returning(1, None), exact_match], [0.5, 0.25])
    scores = scorer.scores(TASKS[:1], [2], ["5", "6"])
    np.testing.assert_array_equal(scores, [[1, NAN], [1, 0]])
    np.testing.assert_array_equal(scorer.combine(scores, TASKS[:1] * 2), [0.5 + 0.25, 0])


# --- groups of unequal size -----------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=2),
    st.lists(st.sampled_from(["5", "6", "7"]), min_size=8, max_size=8),
)
def test_tasks_may_have_unequal_numbers_of_completions(counts: list[int], texts: list[str]) -> None:
    """Each row is scored against its own task."""
    texts = texts[: sum(counts)]
    rows = [TASKS[0]] * counts[0] + [TASKS[1]] * counts[1]
    expected = [
        0.5 * (text == task.answer) + 0.25 * task.columns["level"] for text, task in zip(texts, rows, strict=True)
    ]

    def level_of(completions: Sequence[str], level: Sequence[int], **_: Any) -> list[float]:
        return [float(of_task) for of_task in level]

    scorer = Scorer([exact_match, level_of], [0.5, 0.25], reward_range=(0.0, 2.0))
    assert scorer(TASKS, texts, counts).tolist() == expected
    scores = scorer.scores(TASKS, counts, texts)
    assert scores.shape == (2, sum(counts))
    assert scores[1].tolist() == [1.0] * counts[0] + [4.0] * counts[1]


def test_an_error_names_the_task_of_its_row() -> None:
    scorer = Scorer([returning(0.5, 0.5, 0.5, 2.0)])
    with pytest.raises(ValueError, match=r"task 'second' got the reward 2, outside"):
        scorer(TASKS, list("abcd"), [3, 1])
    with pytest.raises(ValueError, match=r"task 'first' got the reward 2, outside"):
        scorer(TASKS, list("abcd"), [4, 0])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 2], r"4 completions of 2 tasks; expected 3, the sum of counts"),
        ([4], r"1 counts of rollouts for 2 tasks; expected one for each"),
    ],
)
def test_counts_that_do_not_match_are_an_error(counts: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scorer([exact_match])(TASKS, list("abcd"), counts)


def test_completions_that_do_not_divide_among_the_tasks_need_counts() -> None:
    with pytest.raises(ValueError, match="3 completions of 2 tasks; expected as many of each"):
        Scorer([exact_match])(TASKS, list("abc"))


# --- what functions are given, and what they return -----------------------------------------------------------------


def test_functions_of_one_name_are_numbered() -> None:
    assert Scorer([returning(1), exact_match, returning(0), returning(1)]).names == [
        "fixed",
        "exact_match",
        "fixed-2",
        "fixed-3",
    ]


def test_none_leaves_a_function_out_and_nan_means_that_none_applied() -> None:
    scorer = Scorer([returning(None, 1, None, 0), returning(1, None, None, 0)], [0.5, 0.25])
    np.testing.assert_array_equal(scorer(TASKS, ["a", "b", "c", "d"]), [0.25, 0.5, NAN, 0])


@given(
    st.integers(1, 4).flatmap(
        lambda f: st.tuples(
            st.lists(st.lists(st.none() | st.floats(-1, 1), min_size=6, max_size=6), min_size=f, max_size=f),
            st.lists(st.floats(-2, 2), min_size=f, max_size=f),
        )
    )
)
def test_rewards_are_the_sums_of_a_plain_loop(drawn: tuple[list[list[float | None]], list[float]]) -> None:
    scores, weights = drawn
    rewards = Scorer([returning(*row) for row in scores], weights, reward_range=(-8.0, 8.0))(TASKS, list("abcdef"))
    for row in range(6):
        parts = [w * s[row] for s, w in zip(scores, weights, strict=True) if s[row] is not None]
        expected = sum(parts) if parts else NAN
        assert rewards[row] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_functions_receive_prompts_completions_answers_ids_and_the_columns_that_all_tasks_have() -> None:
    seen: dict[str, Any] = {}

    def spy(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float]:
        seen.update(columns, prompts=prompts, completions=completions)
        return [0.0] * len(completions)

    tasks = [
        Task("a", "p", "1", "maths", columns={"level": 1, "hint": "h", "answer": "not this", "task_id": 9}),
        Task("b", "q", "2", columns={"level": 2}),
    ]
    Scorer([spy])(tasks, ["w", "x", "y", "z"])
    assert seen == {
        "prompts": ["p", "p", "q", "q"],
        "completions": ["w", "x", "y", "z"],
        "answer": ["1", "1", "2", "2"],
        "task_id": ["a", "a", "b", "b"],
        "group": ["maths", "maths", "", ""],
        "level": [1, 1, 2, 2],
    }


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scorer([]), "reward_funcs is empty"),
        (lambda: Scorer([exact_match], [1.0, 2.0]), "2 reward_weights for 1 reward_funcs; expected one for each"),
        (lambda: Scorer([exact_match], reward_range=(1.0, 1.0)), r"reward_range=\(1.0, 1.0\).*low < high"),
        (lambda: Scorer([exact_match], reward_range=(1.0, 0.0)), "low < high"),
        (lambda: Scorer([exact_match], reward_range=(0.0, float("inf"))), "two finite numbers"),
        (lambda: Scorer([exact_match], reward_range=(NAN, 1.0)), "two finite numbers"),
    ],
)
def test_a_scorer_that_cannot_work_is_refused_at_once(build: Callable[[], Scorer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("scores", [(), (1.0,), (1.0, 0.0, 1.0)])
def test_a_wrong_number_of_rewards_names_the_function_and_both_numbers(scores: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=rf"fixed returned {len(scores)} rewards for 2 completions"):
        Scorer([exact_match, returning(*scores)])(TASKS, ["5", "6"])


@pytest.mark.parametrize("score", [NAN, float("inf"), -float("inf")])
def test_a_reward_that_is_no_number_names_function_and_task(score: float) -> None:
    with pytest.raises(ValueError, match=rf"fixed returned {score} for task 'second'.*None where it does not apply"):
        Scorer([returning(0.0, score)])(TASKS, ["5", "6"])


@pytest.mark.parametrize("score", [1.001, -0.001])
def test_a_reward_outside_the_declared_range_names_the_task(score: float) -> None:
    with pytest.raises(ValueError, match=rf"task 'second' got the reward {score}, outside reward_range=\(0, 1\)"):
        Scorer([returning(1.0, 0.0, score, 0.0)])(TASKS, ["a", "b", "c", "d"])


def test_a_sum_that_misses_the_range_by_rounding_is_no_fault() -> None:
    tenth = returning(0.1, 0.1)
    assert sum([0.1] * 3) > 0.3
    rewards = Scorer([tenth] * 3, reward_range=(0.0, 0.3))(TASKS, ["a", "b"])
    np.testing.assert_allclose(rewards, [0.3, 0.3])


def test_a_callable_object_is_named_by_its_class() -> None:
    class Grader:
        def __call__(self, **_: Any) -> list[float]:
            return []

    with pytest.raises(ValueError, match="reward function Grader returned 0 rewards"):
        Scorer([Grader()])(TASKS, ["5", "6"])


# --- graded elsewhere -----------------------------------------------------------------------------------------------


class Grader(GradedReward):
    """Takes too long over "slow" and fails at "odd"."""

    closed = False

    def __call__(self, prompts: Any, completions: Any, answer: Any, **columns: Any) -> list[float | None]:
        self.outcomes = Outcomes(len(completions), completions.count("slow"), completions.count("odd"))
        return [0.0] * len(completions)

    def close(self) -> None:
        self.closed = True


def test_what_could_not_be_graded_is_counted_until_the_count_is_set_anew() -> None:
    grader = Grader()
    scorer = Scorer([grader, Grader()], reward_range=(0, 2))
    assert scorer.outcomes.fractions() == {}
    scorer(TASKS[:1], ["slow", "fine", "odd", "slow"])
    scorer(TASKS[:1], ["fine"] * 4)
    assert scorer.outcomes == Outcomes(items=16, timeouts=4, errors=2)
    assert scorer.outcomes.fractions() == {"rewards/timeout_frac": 4 / 16, "rewards/error_frac": 2 / 16}
    scorer.outcomes = Outcomes()
    scorer(TASKS[:1], ["odd"])
    assert scorer.outcomes == Outcomes(2, 0, 2)
    scorer.close()
    assert grader.closed


def test_functions_in_verls_signature_are_called_as_they_expect() -> None:
    def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
        return float((data_source, solution_str, ground_truth, extra_info) == ("maths", "yes", "right", {"n": 1}))

    tasks = [Task("t", "p", "right", "maths", {"extra_info": {"n": 1}})]
    scorer = Scorer([compute_score])
    assert scorer.names == ["compute_score"]
    assert scorer(tasks, ["yes", "no"]).tolist() == [1.0, 0.0]


# --- options --------------------------------------------------------------------------------------------------------


def test_it_is_configured_without_a_class_path() -> None:
    """A final class: its options are those of the group, as `model.scorer` has them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--scorer", type=Scorer)
    names = ["bots_lightning.rewards.exact_match", {"class_path": "bots_lightning.rewards.RepetitionPenalty"}]
    options = {"reward_funcs": names, "reward_weights": [1.0, 0.5], "reward_range": [-0.5, 1.0]}
    config = parser.parse_args([f"--scorer={json.dumps(options)}", "--scorer.evidence=0"])
    scorer = parser.instantiate_classes(config).scorer
    assert isinstance(scorer, Scorer)
    assert (scorer.names, scorer.counted) == (["exact_match", "RepetitionPenalty"], 0)
    np.testing.assert_allclose(scorer(TASKS, ["5", "a a a a"]), [1.0, -0.5 / 2])


# --- graders inside of other functions ------------------------------------------------------------------------------


def test_a_grader_that_another_function_asks_is_counted_and_closed() -> None:
    grader = Grader()
    scorer = Scorer([CosineLength(grader, max_characters=10)], reward_range=(-1.0, 1.0))
    scorer(TASKS[:1], ["slow", "odd"])
    assert scorer.outcomes == Outcomes(items=2, timeouts=1, errors=1)
    stream = RewardStream(scorer, TASKS[:1], [2], lambda rows: [])
    stream.finish(["slow", "slow"])
    assert stream.outcomes == Outcomes(items=2, timeouts=2)
    scorer.close()
    assert grader.closed
