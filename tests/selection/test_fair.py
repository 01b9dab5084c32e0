# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import poch

from bots_lightning.beliefs import AbilityBelief, Evidence, TaskFeatures
from bots_lightning.beliefs.densities import beta_moment
from bots_lightning.selection import FairShareSelector
from bots_lightning.selection.informative import mixed_probability

NAN = float("nan")
concentrations = st.floats(0.05, 60)


def selector_of(
    n: int, seed: int = 0, references: dict[str, np.ndarray] | None = None, **options: float
) -> FairShareSelector:
    selector = FairShareSelector(AbilityBelief(), **options)
    selector.setup(TaskFeatures(n, references or {}), seed)
    return selector


def outcome(batch: np.ndarray, step: int) -> Evidence:
    return Evidence(batch, (5 * batch + 3 * step) % 9, np.full(len(batch), 8.0))


@given(concentrations, concentrations, st.integers(2, 20))
def test_mixed_probability_is_the_closed_form(alpha: float, beta: float, g: int) -> None:
    mean, _ = mixed_probability(np.array([alpha]), np.array([beta]), g)
    expected = 1 - poch(alpha, g) / poch(alpha + beta, g) - poch(beta, g) / poch(alpha + beta, g)
    assert mean[0] == pytest.approx(expected, abs=1e-12)


def test_mixed_probability_by_hand() -> None:
    """Beta(1, 1), G = 2: U = 2p(1−p), E[U] = 2/2 − 2/3 = 1/3, E[U²] = 4·B(3, 3) = 4/30."""
    mean, deviation = mixed_probability(np.array([1.0]), np.array([1.0]), 2)
    assert mean[0] == pytest.approx(1 / 3)
    assert deviation[0] == pytest.approx(np.sqrt(4 / 30 - 1 / 9))


@pytest.mark.parametrize(("alpha", "beta", "g"), [(0.2, 0.3, 8), (1.0, 1.0, 8), (2.0, 9.0, 16), (30.0, 3.0, 4)])
def test_mixed_probability_agrees_with_simulated_groups(alpha: float, beta: float, g: int) -> None:
    rng = np.random.default_rng(7)
    p = rng.beta(alpha, beta, 100_000)
    successes = rng.binomial(g, p)
    mean, deviation = mixed_probability(np.array([alpha]), np.array([beta]), g)
    assert ((successes > 0) & (successes < g)).mean() == pytest.approx(mean[0], abs=0.007)
    assert (1 - p**g - (1 - p) ** g).std() == pytest.approx(deviation[0], abs=0.004)


def test_beta_moment_agrees_with_scipy_and_does_not_overflow() -> None:
    assert beta_moment(np.array([2.0]), np.array([3.0]), 4, 0)[0] == pytest.approx(stats.beta(2, 3).moment(4))
    assert beta_moment(np.array([2.0]), np.array([3.0]), 0, 4)[0] == pytest.approx(stats.beta(3, 2).moment(4))
    half = beta_moment(np.array([1e12]), np.array([1e12]), 128, 128)[0]  # p = 1/2
    assert half == pytest.approx(0.5**256, rel=1e-6)


def test_the_most_due_tasks_are_chosen() -> None:
    selector = selector_of(40, references={"a": np.linspace(0, 1, 40)})
    for step in range(30):
        alpha, beta = selector.belief.concentrations()
        mean, deviation = mixed_probability(alpha, beta, 8)
        key = np.log(selector.turns) - (mean + 0.5 * deviation) / 0.12
        batch = selector.select(5)
        last_in, first_out = key[batch].max(), np.delete(key, batch).min()
        assert last_in <= first_out + 0.3  # the table rounds U by up to 0.01, keys by twice that over τ
        selector.observe(outcome(batch, step))


def test_counts_keep_to_the_shares() -> None:
    """With weights that do not change, c_k ∝ exp(U_k/τ): counts of weights 1 and e² differ by 7.4 within a turn."""
    selector = selector_of(30)
    log_weight = np.repeat([0.0, 1.0, 2.0], 10)
    selector.belief.cells = lambda where: np.repeat([0, 1, 2], 10)[where]  # type: ignore[method-assign]
    selector._table = np.array([0.0, 1.0, 2.0], dtype=np.float32)
    counts = Counter[int]()
    for _ in range(900):
        counts.update(selector.select(5).tolist())
    share = np.exp(log_weight) / np.exp(log_weight).sum()
    np.testing.assert_allclose([counts[k] for k in range(30)], 4500 * share, atol=1.5)


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_no_task_twice_and_every_task_gets_its_turn(batch_size: int) -> None:
    """Also those that are never solved and those that always are."""
    selector, seen = selector_of(20, references={"a": np.linspace(0, 1, 20)}, temperature=0.3), set[int]()
    for _ in range(1200 // batch_size):
        batch = selector.select(batch_size)
        assert len(set(batch.tolist())) == batch_size
        seen |= set(batch.tolist())
        successes = np.where(batch < 7, 0.0, np.where(batch < 14, 4.0, 8.0))
        selector.observe(Evidence(batch, successes, np.full(batch_size, 8.0)))
    assert seen == set(range(20))


def test_mixed_groups_come_oftener_than_equal_ones() -> None:
    selector, counts = selector_of(60), np.zeros(60)
    for _ in range(60):
        batch = selector.select(6)
        counts[batch] += 1
        selector.observe(Evidence(batch, np.where(batch < 20, 0.0, np.where(batch < 40, 4.0, 8.0)), np.full(6, 8.0)))
    assert counts[20:40].sum() > 2 * (counts[:20].sum() + counts[40:].sum())


def test_a_task_without_rollouts_has_had_its_turn() -> None:
    """Otherwise one that always fails to be rolled out would be chosen for ever."""
    selector, chosen = selector_of(10), []
    for _ in range(5):
        batch = selector.select(2)
        chosen += batch.tolist()
        selector.observe(Evidence(batch, np.zeros(2), np.zeros(2)))
    assert sorted(chosen) == list(range(10))


@pytest.mark.parametrize("references", [{}, {"a": np.full(50, NAN)}, {"a": np.r_[np.full(20, NAN), np.ones(30)]}])
def test_the_order_of_a_batch_is_irrelevant(references: dict[str, np.ndarray]) -> None:
    one, other = selector_of(50, 3, references), selector_of(50, 3, references)
    rng = np.random.default_rng(1)
    for step in range(40):
        batch = one.select(8)
        np.testing.assert_array_equal(batch, other.select(8))
        one.observe(outcome(batch, step))
        other.observe(outcome(rng.permutation(batch), step))


def test_a_resumed_selector_makes_the_next_choices_of_the_uninterrupted_one() -> None:
    references = {"a": np.linspace(0, 1, 50)}
    uninterrupted, resumed = selector_of(50, 3, references), selector_of(50, 8, references)
    for step in range(30):
        if step == 20:
            resumed.load_state_dict(uninterrupted.state_dict())
        batch = uninterrupted.select(8)
        uninterrupted.observe(outcome(batch, step))
        if step >= 20:
            np.testing.assert_array_equal(resumed.select(8), batch)
            resumed.observe(outcome(batch, step))
    assert resumed.metrics() == uninterrupted.metrics()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0; expected a positive"),
        ({"optimism": -1.0}, "optimism=-1.0; expected a number >= 0"),
        ({"optimism": NAN}, "optimism=nan"),
        ({"first_turn": 0.0}, r"first_turn=0.0; expected a number in \(0, 1\]"),
        ({"num_generations": 1}, "num_generations=1; rewards of fewer than 2"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FairShareSelector(AbilityBelief(), **options)  # type: ignore[arg-type]


def test_the_group_size_follows_the_evidence_and_survives_a_resume() -> None:
    told, follows = (FairShareSelector(AbilityBelief(), num_generations=g) for g in (4, 16))
    for selector in (told, follows):
        selector.setup(TaskFeatures(12), seed=1)
    for selector in (told, follows):
        selector.turns[:] = told.turns  # the same place in the queue, whatever was chosen first
        selector.observe(Evidence(np.arange(12), np.arange(12) % 5, np.full(12, 4.0)))
    resumed = FairShareSelector(AbilityBelief(), num_generations=16)
    resumed.setup(TaskFeatures(12), seed=2)
    resumed.load_state_dict(follows.state_dict())
    draws = [[selector.select(3).tolist() for _ in range(8)] for selector in (told, follows, resumed)]
    assert draws[0] == draws[1] == draws[2]
