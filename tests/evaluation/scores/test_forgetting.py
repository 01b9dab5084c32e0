"""Forgetting is the loss of what was once solved, and nothing where nothing changes."""

# Shapes: N tasks, n rollouts of each, E evaluations.

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.evaluation import Forgetting, halves, mean_loss

NAN = np.nan


def forgotten(evaluations: list[np.ndarray]) -> float | None:
    """That of the last of some evaluations, each (N, n)."""
    forgetting = Forgetting("pool", len(evaluations[0]))
    for evidence in evaluations[:-1]:
        forgetting.add(halves(evidence))
    return mean_loss(forgetting.losses(halves(evaluations[-1])))


def test_halves_are_means_of_every_other_rollout() -> None:
    evidence = np.array([[1.0, 0.0, 0.5, 0.0], [NAN, 0.25, 1.0, NAN], [NAN, 1.0, NAN, 0.0]])
    np.testing.assert_array_equal(halves(evidence), [[0.75, 0.0], [1.0, 0.25], [NAN, 0.5]])
    np.testing.assert_array_equal(halves(evidence[:, :1]), [[1.0, NAN], [NAN, NAN], [NAN, NAN]])


def test_two_tasks_by_hand() -> None:
    """The first half solves task 0 at both earlier evaluations, the second half task 1 at the second one."""
    first, second = np.array([[1.0, 0.5], [0.5, 0.5]]), np.array([[1.0, 0.0], [0.25, 1.0]])
    now = np.array([[0.0, 0.25], [0.75, 0.0]])
    forgetting = Forgetting("pool", 2)
    for rates in (first, second):
        forgetting.add(rates)
    np.testing.assert_array_equal(forgetting.losses(now), [[(0.5 + 0.0) / 2 - 0.25, NAN], [NAN, 0.25 - 0.75]])
    assert mean_loss(forgetting.losses(now)) == pytest.approx((0.0 - 0.5) / 2)


def test_nothing_is_said_without_a_half_that_solved_and_one_to_compare() -> None:
    solved, unsolved = np.ones((3, 4)), np.zeros((3, 4))
    assert forgotten([solved]) is None  # no earlier evaluation
    assert forgotten([unsolved, solved]) is None
    assert forgotten([solved[:, :1], unsolved[:, :1]]) is None  # one rollout has no halves
    assert forgotten([solved, unsolved * NAN]) is None
    assert forgotten([solved, unsolved]) == 1.0


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=8), st.integers(2, 5))
def test_of_tasks_solved_always_or_never_it_is_the_share_that_is_solved_no_more(
    tasks: list[list[bool]], rollouts: int
) -> None:
    evaluations = [np.repeat([[float(task[e])] for task in tasks], rollouts, axis=1) for e in range(3)]
    first, second, now = np.array(tasks).T
    once = [a or b for a, b in zip(first, second, strict=True)]
    lost = [was and not still for was, still in zip(once, now, strict=True)]
    assert forgotten(evaluations) == (pytest.approx(sum(lost) / sum(once)) if any(once) else None)


@pytest.mark.parametrize("rollouts", [2, 3, 4, 16])
@pytest.mark.parametrize("earlier", [1, 8])
def test_an_unchanged_policy_forgets_nothing_on_average(rollouts: int, earlier: int) -> None:
    """Counting tasks with a majority before and none now would find a good part of them forgotten."""
    rng = np.random.default_rng(rollouts + earlier)
    rates = rng.uniform(size=(20_000, 1))
    evaluations = [(rng.random((20_000, rollouts)) < rates).astype(float) for _ in range(earlier + 1)]
    found = forgotten(evaluations)
    assert found == pytest.approx(0, abs=4 / np.sqrt(2 * 20_000 * 0.4))
    solved = [evidence.mean(axis=1) > 0.5 for evidence in evaluations]
    once = np.any(solved[:-1], axis=0)
    assert (once & ~solved[-1]).sum() / once.sum() > 0.07


def test_an_unchanged_policy_with_equal_seeds_forgets_exactly_nothing() -> None:
    evidence = (np.random.default_rng(0).random((50, 4)) < 0.5).astype(float)
    assert forgotten([evidence] * 3) == 0.0


def test_a_loss_and_a_gain_are_found_whatever_the_noise() -> None:
    rng = np.random.default_rng(0)

    def drawn(rate: float) -> np.ndarray:
        return (rng.random((20_000, 4)) < rate).astype(float)

    assert forgotten([drawn(0.9), drawn(0.9), drawn(0.6)]) == pytest.approx(0.3, abs=0.02)
    assert forgotten([drawn(0.4), drawn(0.7)]) == pytest.approx(-0.3, abs=0.02)
    # A half of two solves with probability 0.9² and 0.6²: at both evaluations, at the first only, at the second only.
    first, second = 0.9**2, 0.6**2
    loss = first * second * (0.75 - 0.3) + first * (1 - second) * (0.9 - 0.3) + (1 - first) * second * (0.6 - 0.3)
    expected = loss / (1 - (1 - first) * (1 - second))
    assert forgotten([drawn(0.9), drawn(0.6), drawn(0.3)]) == pytest.approx(expected, abs=0.02)


def test_it_continues_from_a_checkpoint_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    evaluations = [halves((rng.random((30, 6)) < 0.6).astype(float)) for _ in range(4)]
    whole, begun, file = Forgetting("pool", 30), Forgetting("pool", 30), io.BytesIO()
    for rates in evaluations[:3]:
        whole.add(rates)
    begun.add(evaluations[0])
    torch.save(begun.state_dict(), file)
    file.seek(0)
    resumed = Forgetting.from_state_dict(torch.load(file, weights_only=True))
    for rates in evaluations[1:3]:
        resumed.add(rates)
    assert resumed.pool == "pool"
    np.testing.assert_array_equal(resumed.losses(evaluations[3]), whole.losses(evaluations[3]))
