"""Rewards of a stream are those of the scorer, whatever comes in which order; and grading does not wait for the end."""

# Shapes: F functions, B tasks, n_b rollouts of task b, R = Σ n_b rows.

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.rewards import GradedReward, MathReward, Outcomes, RewardStream, Scorer, exact_match
from bots_lightning.tasks import Task

TASKS = [Task(name, f"prompt {name}", str(i), columns={"level": i}) for i, name in enumerate("abcd")]
SECONDS = 10.0  # longer than anything here takes; only a test that fails waits so long


def decode(token_lists: list[list[int]]) -> list[str]:
    return ["".join(map(str, tokens)) for tokens in token_lists]


def tokens_of(counts: Sequence[int]) -> list[list[list[int]]]:
    """Distinct completions, n_b of task b."""
    return [[[b, j] for j in range(count)] for b, count in enumerate(counts)]


def texts_of(token_lists: list[list[list[int]]]) -> list[str]:
    return decode([tokens for of_task in token_lists for tokens in of_task])


def identity(completion: str, task_id: str, columns: dict[str, Any]) -> float | None:
    """A score that hardly two rows share, and that depends on all that a function is given; None for some rows."""
    number = hash((completion, task_id, *sorted((name, str(value)) for name, value in columns.items()))) % 1000
    return None if number % 5 == 0 else number / 1000


class Grader(GradedReward):
    """Scores rows by themselves and notes its calls; may wait in each for leave to go on, or fail."""

    def __init__(self, waits: bool = False, failure: Exception | None = None) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self.threads: list[threading.Thread] = []
        self.called, self.leave = threading.Event(), threading.Event()
        self.failure = failure
        if not waits:
            self.leave.set()

    def __call__(self, prompts: Any, completions: Any, answer: Any, **columns: Any) -> list[float | None]:
        self.calls.append(list(completions))
        self.threads.append(threading.current_thread())
        self.called.set()
        assert self.leave.wait(SECONDS)
        if self.failure is not None:
            raise self.failure
        self.outcomes = Outcomes(len(completions), completions.count("00"), completions.count("11"))
        columns |= {"prompts": prompts, "answer": answer}
        return [
            identity(text, columns["task_id"][i], {name: column[i] for name, column in columns.items()})
            for i, text in enumerate(completions)
        ]


class Plain:
    """Compares completions of the whole batch, and notes its calls."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        self.calls.append(list(completions))
        self.threads.append(threading.current_thread())
        return [None if text == "10" else sorted(completions).index(text) / 100 for text in completions]


def stream_of(*functions: Any, tasks: Sequence[Task] = TASKS, counts: Sequence[int] = (2, 2, 2, 2)) -> RewardStream:
    return RewardStream(Scorer(list(functions)), tasks, counts, decode)


TOKENS = tokens_of([2] * 4)
TEXTS = texts_of(TOKENS)


# --- the same rewards -------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 3).map(lambda count: [count] * 4) | st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.permutations(range(4)),
    st.integers(0, 4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_scores_are_the_scorers_in_whatever_order_tasks_are_completed(
    counts: list[int], order: list[int], told: int, with_hint: list[bool]
) -> None:
    tasks = [
        Task(task.id, task.prompt, task.answer, columns=task.columns | ({"hint": "h"} if hint else {}))
        for task, hint in zip(TASKS, with_hint, strict=True)
    ]
    scorer = Scorer([exact_match, Grader(), Plain(), Grader()])
    tokens = tokens_of(counts)
    expected = scorer.scores(tasks, counts, texts_of(tokens))
    whole, scorer.outcomes = scorer.outcomes, Outcomes()
    stream = RewardStream(scorer, tasks, counts, decode)
    for position in order[:told]:
        stream.completed(position, tokens[position])
    np.testing.assert_array_equal(stream.finish(texts_of(tokens)), expected)
    assert expected.shape == (4, sum(counts))
    assert stream.outcomes == whole
    assert scorer.outcomes == Outcomes()


def test_tasks_may_be_completed_on_many_threads_at_once() -> None:
    tasks = [Task(str(i), "", "") for i in range(40)]
    tokens, grader = tokens_of([3] * 40), Grader()
    stream = stream_of(grader, tasks=tasks, counts=[3] * 40)
    threads = [threading.Thread(target=stream.completed, args=(b, tokens[b])) for b in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scores = stream.finish(texts_of(tokens))
    assert sorted(text for call in grader.calls for text in call) == sorted(texts_of(tokens))
    np.testing.assert_array_equal(scores, Scorer([Grader()]).scores(tasks, [3] * 40, texts_of(tokens)))


def test_graders_with_processes_work_beside_the_thread_that_samples() -> None:
    reward = MathReward(timeout_seconds=10.0, num_workers=1)
    texts = [rf"\boxed{{{answer}}}" for answer in (0, 5, 1, 1, 5, 2, 3, 5)]
    stream = RewardStream(Scorer([reward]), TASKS, [2] * 4, lambda rows: [texts[2 * b + j] for b, j in rows])
    for position in (2, 0, 3):
        stream.completed(position, TOKENS[position])
    np.testing.assert_array_equal(stream.finish(texts), [[1, 0, 1, 1, 0, 1, 1, 0]])
    assert stream.outcomes == Outcomes(8, 0, 0)
    reward.close()


# --- who is called when, and where ------------------------------------------------------------------------------------


def test_grading_begins_before_the_last_task_is_completed() -> None:
    grader = Grader()
    stream = stream_of(grader)
    stream.completed(0, TOKENS[0])
    assert grader.called.wait(SECONDS)
    assert grader.calls == [["00", "01"]]
    for position in (1, 2, 3):
        stream.completed(position, TOKENS[position])
    stream.finish(TEXTS)
    assert grader.threads[0] is not threading.current_thread()


def test_completing_a_task_does_not_wait_for_the_grader_whose_next_call_takes_all_that_waits() -> None:
    grader = Grader(waits=True)
    stream = stream_of(grader)
    stream.completed(2, TOKENS[2])
    assert grader.called.wait(SECONDS)
    for position in (3, 0, 1):
        stream.completed(position, TOKENS[position])
    assert grader.calls == [["20", "21"]]
    grader.leave.set()
    stream.finish(TEXTS)
    assert grader.calls == [["20", "21"], ["30", "31", "00", "01", "10", "11"]]
    assert stream.outcomes == Outcomes(items=2 + 6, timeouts=1, errors=1)


def test_other_functions_are_called_once_with_the_whole_batch_on_the_thread_that_finishes() -> None:
    plain, grader = Plain(), Grader(waits=True)
    stream = stream_of(grader, plain)
    stream.completed(3, TOKENS[3])
    assert grader.called.wait(SECONDS)
    assert plain.calls == []
    grader.leave.set()
    stream.finish(TEXTS)
    assert plain.calls == [TEXTS]
    assert plain.threads == [threading.current_thread()]


def test_groups_of_unequal_size_are_completed_whole() -> None:
    grader, plain, counts = Grader(), Plain(), [1, 3, 0, 2]
    tokens = tokens_of(counts)
    stream = stream_of(grader, plain, counts=counts)
    with pytest.raises(ValueError, match="2 completions of task 'b'; expected 3"):
        stream.completed(1, tokens[1][:2])
    stream.completed(3, tokens[3])
    stream.completed(2, [])
    stream.wait()
    scores = stream.finish(texts_of(tokens))
    assert grader.calls == [["30", "31"], ["00", "10", "11", "12"]]
    assert plain.calls == [["00", "10", "11", "12", "30", "31"]]
    np.testing.assert_array_equal(scores[1], [0.0, np.nan, 0.02, 0.03, 0.04, 0.05])


def test_what_was_not_said_to_be_completed_is_graded_at_the_end() -> None:
    grader = Grader()
    stream = stream_of(grader)
    stream.completed(1, TOKENS[1])
    stream.finish(TEXTS)
    assert grader.calls == [["10", "11"], ["00", "01", "20", "21", "30", "31"]]
    assert grader.threads[1] is threading.current_thread()


def test_without_graded_rewards_there_is_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    plain = Plain()
    stream = stream_of(plain, exact_match)
    stream.completed(0, TOKENS[0])
    np.testing.assert_array_equal(stream.finish(TEXTS), Scorer([Plain(), exact_match]).scores(TASKS, [2] * 4, TEXTS))
    assert stream.outcomes == Outcomes()
    with pytest.raises(AssertionError, match="rewards was started"):
        stream_of(Grader()).completed(0, TOKENS[0])


# --- the end of the thread --------------------------------------------------------------------------------------------


def assert_ends(thread: threading.Thread) -> None:
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_the_thread_ends_with_the_batch() -> None:
    grader = Grader()
    stream = stream_of(grader)
    for position in range(4):
        stream.completed(position, TOKENS[position])
    stream.finish(TEXTS)
    assert grader.threads[0].daemon
    for thread in grader.threads:
        assert_ends(thread)


def test_the_thread_of_a_batch_that_nobody_finishes_ends_when_nothing_waits() -> None:
    grader = Grader()
    stream = stream_of(grader)
    stream.completed(0, TOKENS[0])
    assert grader.called.wait(SECONDS)
    assert_ends(grader.threads[0])
    stream.completed(1, TOKENS[1])  # by another thread, then
    np.testing.assert_array_equal(stream.finish(TEXTS), Scorer([Grader()]).scores(TASKS, [2] * 4, TEXTS))
    assert [call[0] for call in grader.calls] == ["00", "10", "20"]


def test_a_batch_that_is_given_up_ends_with_the_present_call() -> None:
    grader = Grader(waits=True)
    stream = stream_of(grader)
    stream.completed(0, TOKENS[0])
    assert grader.called.wait(SECONDS)
    stream.completed(1, TOKENS[1])
    stream.close()
    stream.completed(2, TOKENS[2])
    grader.leave.set()
    stream.wait()  # for that call alone
    assert not grader.threads[0].is_alive()
    assert grader.calls == [["00", "01"]]


def test_waiting_returns_once_all_that_was_completed_is_graded() -> None:
    grader, waited = Grader(waits=True), threading.Event()
    stream = stream_of(grader)
    stream.wait()  # for nothing
    stream.completed(1, TOKENS[1])
    assert grader.called.wait(SECONDS)
    stream.completed(3, TOKENS[3])
    waiter = threading.Thread(target=lambda: (stream.wait(), waited.set()))
    waiter.start()
    assert not waited.wait(0.05)
    grader.leave.set()
    assert waited.wait(SECONDS)
    assert grader.calls == [["10", "11"], ["30", "31"]]
    assert stream.outcomes == Outcomes(items=4, errors=1)  # the last call's as well
    stream.finish(TEXTS)
    assert grader.calls[2:] == [["00", "01", "20", "21"]]


def test_waiting_leaves_the_failure_of_a_grader_to_the_end() -> None:
    failure = OSError("no processes left")
    grader = Grader(failure=failure)
    stream = stream_of(grader)
    stream.completed(0, TOKENS[0])
    stream.wait()
    stream.wait()
    with pytest.raises(OSError, match="no processes left") as caught:
        stream.finish(TEXTS)
    assert caught.value is failure


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [OSError("no processes left"), SystemExit("a grader wants to leave")])
def test_the_failure_of_a_grader_is_raised_at_the_end_unchanged(failure: Any) -> None:
    grader = Grader(failure=failure)
    stream = stream_of(Plain(), grader)
    stream.completed(0, TOKENS[0])
    assert grader.called.wait(SECONDS)
    assert_ends(grader.threads[0])
    stream.completed(1, TOKENS[1])  # is not graded any more
    with pytest.raises(type(failure)) as caught:
        stream.finish(TEXTS)
    assert caught.value is failure
    assert len(grader.calls) == 1


def test_a_score_of_a_grader_that_is_no_number_names_the_task() -> None:
    class Wrong(Grader):
        def __call__(self, *args: Any, **columns: Any) -> list[float | None]:
            return [float("nan") if task_id == "c" else 0.0 for task_id in columns["task_id"]]

    stream = stream_of(Wrong())
    stream.completed(2, TOKENS[2])
    with pytest.raises(ValueError, match="Wrong returned nan for task 'c'"):
        stream.finish(TEXTS)


def test_completions_that_cannot_be_decoded_are_an_error_at_the_end() -> None:
    def fail(token_lists: list[list[int]]) -> list[str]:
        raise OverflowError("token id out of range")

    stream = RewardStream(Scorer([Grader()]), TASKS, [2] * 4, fail)
    stream.completed(0, TOKENS[0])
    with pytest.raises(OverflowError, match="token id out of range"):
        stream.finish(TEXTS)


def test_the_failure_of_another_function_gives_the_batch_up() -> None:
    def broken(completions: list[str], **_: Any) -> list[float]:
        return [0.0]

    grader = Grader(waits=True)
    stream = stream_of(grader, broken)
    stream.completed(0, TOKENS[0])
    assert grader.called.wait(SECONDS)
    stream.completed(1, TOKENS[1])
    with pytest.raises(ValueError, match="broken returned 1 rewards for 8 completions"):
        stream.finish(TEXTS)
    grader.leave.set()
    assert_ends(grader.threads[0])
    assert grader.calls == [["00", "01"]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda stream: stream.completed(1, [[1]]), "1 completions of task 'b'; expected 2"),
        (lambda stream: stream.finish(["one"]), "1 completions of 4 tasks; expected 8, the sum of counts"),
    ],
)
def test_a_wrong_number_of_completions_is_an_error(call: Callable[[RewardStream], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(stream_of(Grader()))
