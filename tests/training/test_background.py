"""Rollouts in a thread of their own: the copy of the policy, the cores, and what a checkpoint holds of a batch."""

# Shapes: K tasks, n_k rollouts of task k.

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from bots_lightning.data import TaskBatch
from bots_lightning.policy import LoRA
from bots_lightning.policy.loading import load_policy
from bots_lightning.policy.recording import policy_logprobs
from bots_lightning.rewards import GradedReward, Outcomes, RewardStream, Scorer
from bots_lightning.rollouts import Rollouts
from bots_lightning.tasks import ProceduralTasks
from bots_lightning.training.background import BackgroundRollouts, PolicyCopy, background_state, rows_of_batch
from bots_lightning.training.batch import UnscoredBatch, closed_on_failure


class Letters(GradedReward):
    """Grades whether there is an a."""

    def __call__(self, prompts: Any, completions: Any, answer: Any, **columns: Any) -> list[float | None]:
        self.outcomes = Outcomes(len(completions), 0, 1)
        return [float("a" in completion) for completion in completions]


@pytest.fixture
def background(checkpoint: str) -> Iterator[BackgroundRollouts]:
    background = BackgroundRollouts(load_policy(checkpoint, LoRA(r=4, alpha=8)), torch.device("cpu"), 2, False)
    yield background
    background.close()


def reward_stream() -> RewardStream:
    return RewardStream(Scorer([Letters()]), [ProceduralTasks(1).load()[0]], [2], lambda rows: [""] * len(rows))


def unscored(rollouts: Rollouts) -> UnscoredBatch:
    return UnscoredBatch(rollouts, reward_stream())


# --- the thread -----------------------------------------------------------------------------------------------------


def test_caller_and_thread_share_the_cores(
    background: BackgroundRollouts, make_rollouts: Callable[..., Rollouts]
) -> None:
    before, seen, gate = torch.get_num_threads(), [], threading.Event()
    try:
        torch.set_num_threads(4)

        def draw(_: Any) -> UnscoredBatch:
            gate.wait(60)
            seen.append(torch.get_num_threads())
            return unscored(make_rollouts([1], [1]))

        background.begin(TaskBatch([], [], [0], [1]), draw)
        seen.append(torch.get_num_threads())
        gate.set()
        background.wait()
        assert seen == [2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_a_failure_is_raised_where_the_result_is_asked_for_and_nothing_is_saved(background: BackgroundRollouts) -> None:
    def fail(_: Any) -> Any:
        raise ConnectionError("no server is left")

    background.begin(TaskBatch([], [], [0], [1]), fail)
    background.begin(TaskBatch([], [], [1], [1]), fail)
    assert background_state(background, 0) == []
    assert background_state(None, 0) == []
    with pytest.raises(ConnectionError, match="no server is left"):
        background.batches[0].result.result()


def test_what_is_given_up_is_graded_no_further(
    background: BackgroundRollouts, make_rollouts: Callable[..., Rollouts]
) -> None:
    gate, stream = threading.Event(), reward_stream()

    def draw(_: Any) -> UnscoredBatch:
        gate.wait(60)
        return UnscoredBatch(make_rollouts([1, 1], [1, 1]), stream)

    background.begin(TaskBatch([], [], [0], [2]), draw)
    background.close()  # returns at once, while the thread is at work
    gate.set()
    background.wait()
    stream.completed(0, [[2], [2]])
    stream.wait()
    assert stream.outcomes == Outcomes()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_rollouts_that_fail_end_the_grading_of_their_batch(error: type[BaseException]) -> None:
    stream = reward_stream()
    with pytest.raises(error), closed_on_failure(stream):
        raise error
    stream.completed(0, [[2], [2]])
    stream.wait()
    assert stream.outcomes == Outcomes()


def test_what_comes_after_a_batch_that_failed_is_not_saved(
    background: BackgroundRollouts, make_rollouts: Callable[..., Rollouts]
) -> None:
    """Whoever resumes rolls both out again, in their order."""
    good = unscored(make_rollouts([1], [1]))

    def fail(_: Any) -> Any:
        raise ConnectionError("no server is left")

    background.begin(TaskBatch([4], [], [0], [1]), lambda _: good)
    background.begin(TaskBatch([5], [], [0], [1]), fail)
    assert [state["indices"] for state in background_state(background, 0)] == [[4]]
    background.taken()
    background.begin(TaskBatch([6], [], [0], [1]), lambda _: good)
    assert background_state(background, 0) == []


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_rows_are_found_by_their_place_in_the_draw(
    background: BackgroundRollouts, make_rollouts: Callable[..., Rollouts]
) -> None:
    rollouts = replace(make_rollouts([4, 4, 1, 1, 3, 3], [2] * 6), policy_version=7)  # the length tells the place
    background.begin(TaskBatch([30, 10, 20], [], [3, 0, 2], [2, 2, 2]), lambda _: unscored(rollouts))
    [state] = background_state(background, pad_token_id=0)
    found = rows_of_batch(state, TaskBatch([10, 30], [], [0, 3], [2, 2]))
    assert found is not None
    assert found.lengths.tolist() == [1, 1, 4, 4]
    assert found.policy_version == 7
    for other in (TaskBatch([10, 30], [], [0, 1], [2, 2]), TaskBatch([10, 31], [], [0, 3], [2, 2])):  # of another draw
        assert rows_of_batch(state, other) is None
    assert rows_of_batch(state, TaskBatch([10, 30], [], [0, 3], [4, 4])) is None
    background.taken()
    assert background_state(background, 0) == []


def test_tasks_may_have_unequal_numbers_of_rows(
    background: BackgroundRollouts, make_rollouts: Callable[..., Rollouts]
) -> None:
    rollouts = make_rollouts([5, 6, 1, 3, 3, 4], [2] * 6)
    background.begin(TaskBatch([30, 10, 20], [], [3, 0, 2], [2, 1, 3]), lambda _: unscored(rollouts))
    [state] = background_state(background, pad_token_id=0)
    assert state["counts"] == [2, 1, 3]
    found = rows_of_batch(state, TaskBatch([20, 30], [], [2, 3], [3, 2]))
    assert found is not None
    assert found.lengths.tolist() == [3, 3, 4, 5, 6]
    assert torch.equal(found.completion_ids[0, :3], rollouts.completion_ids[3, :3])
    assert rows_of_batch(state, TaskBatch([20, 30], [], [2, 3], [2, 3])) is None


# --- the copy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [LoRA(r=4, alpha=8), None], ids=["lora", "full"])
def test_a_copy_keeps_still_and_shares_what_is_frozen(
    checkpoint: str, make_rollouts: Any, shake: Any, lora: LoRA | None
) -> None:
    rollouts = make_rollouts([3, 6, 1, 4], [2, 5, 3, 1])
    policy = load_policy(checkpoint, lora)
    shake(policy)
    mask, copy = rollouts.completion_mask, PolicyCopy(policy)
    before = policy_logprobs(policy, rollouts)[mask]
    assert torch.equal(policy_logprobs(copy.policy, rollouts)[mask], before)
    shake(policy, seed=1)
    assert torch.equal(policy_logprobs(copy.policy, rollouts)[mask], before)
    after = policy_logprobs(policy, rollouts)[mask]
    assert (after - before).abs().max() > 1e-3
    assert torch.equal(policy_logprobs(copy.refresh(), rollouts)[mask], after)
    mine = {weight.data_ptr() for weight in copy.policy.parameters()}
    for weight in policy.parameters():
        assert (weight.data_ptr() in mine) == (not weight.requires_grad)
    assert not any(weight.requires_grad for weight in copy.policy.parameters())
