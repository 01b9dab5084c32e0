"""pass@k against the enumeration of all k-subsets, and the held-out score against plain averages."""

# Shapes: B tasks, n completions per task.

from __future__ import annotations

from itertools import combinations, pairwise
from math import nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bots_lightning.evaluation import HeldOutScore, pass_at_k


def enumerated(successes: int, n: int, k: int) -> float:
    """The share of the k-subsets of n completions that hold a success."""
    solved = [i < successes for i in range(n)]
    subsets = list(combinations(solved, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_k_subsets_that_hold_a_success(n: int) -> None:
    successes = torch.arange(n + 1)
    for k in range(1, n + 1):
        expected = torch.tensor([enumerated(c, n, k) for c in range(n + 1)], dtype=torch.float64)
        torch.testing.assert_close(pass_at_k(successes, torch.full((n + 1,), n), k), expected, rtol=0, atol=1e-14)


def test_pass_at_k_by_hand() -> None:
    # n = 4, c = 1, k = 2: of the 6 pairs, 3 hold the success. n = 5, c = 2, k = 3: 1 - C(3,3)/C(5,3) = 1 - 1/10.
    torch.testing.assert_close(pass_at_k(torch.tensor([1]), torch.tensor([4]), 2), torch.tensor([0.5]).double())
    torch.testing.assert_close(pass_at_k(torch.tensor([2]), torch.tensor([5]), 3), torch.tensor([0.9]).double())


def test_tasks_may_have_different_numbers_of_completions() -> None:
    together = pass_at_k(torch.tensor([1, 2, 0]), torch.tensor([4, 8, 5]), 3)
    expected = [enumerated(1, 4, 3), enumerated(2, 8, 3), enumerated(0, 5, 3)]
    torch.testing.assert_close(together, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


def test_large_numbers_do_not_overflow() -> None:
    # 1 - C(9999, 5000) / C(10000, 5000) = 1 - 5000 / 10000
    torch.testing.assert_close(
        pass_at_k(torch.tensor([1]), torch.tensor([10_000]), 5000), torch.tensor([0.5]).double(), rtol=0, atol=1e-9
    )


counts = st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(counts)
def test_identities(drawn: tuple[int, int, int]) -> None:
    n, c, k = drawn
    rates = [float(pass_at_k(torch.tensor([c]), torch.tensor([n]), j)) for j in range(1, n + 1)]
    assert rates[0] == pytest.approx(c / n)  # pass@1 is the mean
    assert rates[-1] == float(c > 0)  # pass@n asks for one success among all
    assert all(a <= b + 1e-12 for a, b in pairwise(rates))  # more attempts never hurt
    if c > n - k:
        assert rates[k - 1] == 1.0  # no k completions are all failures


def test_too_few_completions_are_an_error_that_names_both_numbers() -> None:
    with pytest.raises(ValueError, match="pass@4 needs at least 4 completions of each task; one has 3"):
        pass_at_k(torch.tensor([1, 1]), torch.tensor([4, 3]), 4)


@pytest.mark.parametrize("k", [0, 5])
def test_a_k_outside_1_to_n_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"pass@{k} with 4 completions per task; expected 1 <= k <= n"):
        HeldOutScore(4, k, [])


def columns(rows: list[tuple[float, int, int, int]]) -> tuple[Tensor, ...]:
    """(quality, successes, counts, group) of some tasks."""
    quality, successes, n, group = zip(*rows, strict=True)
    return torch.tensor(quality).double(), torch.tensor(successes), torch.tensor(n), torch.tensor(group)


ROWS = [(0.5, 1, 4, 0), (1.0, 4, 4, 1), (0.25, 0, 4, 0), (0.0, 0, 4, -1), (0.75, 2, 4, 1)]


def plain(scores: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items()}


def test_scores_are_means_over_all_tasks_and_over_the_tasks_of_each_group() -> None:
    score = HeldOutScore(4, 2, ["logic", "maths"])
    score.update(*columns(ROWS))
    assert plain(score.compute()) == pytest.approx(
        {
            "avg@4": (0.5 + 1.0 + 0.25 + 0.0 + 0.75) / 5,
            "pass@2": (enumerated(1, 4, 2) + 1 + 0 + 0 + enumerated(2, 4, 2)) / 5,
            "logic/avg@4": (0.5 + 0.25) / 2,
            "maths/avg@4": (1.0 + 0.75) / 2,
        }
    )


@given(st.permutations(ROWS), st.lists(st.integers(1, 4), max_size=2))
def test_batches_and_their_order_do_not_matter(rows: list[tuple[float, int, int, int]], cuts: list[int]) -> None:
    at_once, in_batches = HeldOutScore(4, 2, ["logic", "maths"]), HeldOutScore(4, 2, ["logic", "maths"])
    at_once.update(*columns(ROWS))
    edges = [0, *sorted(set(cuts)), len(rows)]
    for start, end in pairwise(edges):
        in_batches.update(*columns(rows[start:end]))
    assert plain(in_batches.compute()) == pytest.approx(plain(at_once.compute()))


def test_tasks_without_rewards_are_left_out_of_every_mean() -> None:
    score = HeldOutScore(4, 3, ["maths", "empty"])
    score.update(*columns([(1.0, 4, 4, 0), (nan, 0, 0, 0), (0.5, 1, 2, 0)]))  # the last has too few for pass@3
    scores = plain(score.compute())
    assert scores == pytest.approx({"avg@4": 0.75, "pass@3": 1.0, "maths/avg@4": 0.75, "empty/avg@4": nan}, nan_ok=True)


def test_reset_forgets_the_last_evaluation() -> None:
    score = HeldOutScore(4, 2, [])
    score.update(*columns(ROWS))
    score.reset()
    score.update(*columns(ROWS[1:2]))
    assert plain(score.compute()) == {"avg@4": 1.0, "pass@2": 1.0}
