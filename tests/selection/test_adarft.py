# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import AdaRFTSelector
from bots_lightning.selection.adarft import moved_target

NAN = float("nan")
unit = st.floats(0, 1)


def selector_of(rates: list[float], seed: int = 0, initial: float = 0.0, eta: float = 0.5) -> AdaRFTSelector:
    selector = AdaRFTSelector("large", eta=eta, initial_difficulty=initial)
    selector.setup(TaskFeatures(len(rates), {"large": np.array(rates)}), seed)
    return selector


def target_of(selector: AdaRFTSelector) -> float:
    return selector.metrics()["selection/target_difficulty"]


def test_the_target_moves_as_by_hand() -> None:
    """Rewards all 1, 3/4, 1/2 and 0 with η = 0.5, α = 2; tanh x = (e^2x − 1) / (e^2x + 1)."""
    selector = selector_of([0.5, 0.5])
    expected = [0.5 * (math.e**2 - 1) / (math.e**2 + 1)]  # tanh(2 · 0.5) = 0.7616
    expected += [expected[0] + 0.5 * (math.e - 1) / (math.e + 1)]  # tanh(2 · 0.25) = 0.4621
    expected += [expected[1], expected[1] - expected[0]]
    assert expected == pytest.approx([0.38080, 0.61186, 0.61186, 0.23106], abs=1e-5)
    for successes, target in zip(([8, 8], [8, 4], [2, 6], [0, 0]), expected, strict=True):
        selector.observe(Evidence(np.array([0, 1]), np.array(successes, dtype=float), np.array([8.0, 8.0])))
        assert target_of(selector) == pytest.approx(target, abs=1e-12)


def test_the_target_stays_a_difficulty() -> None:
    rule = {"eta": 0.5, "alpha": 2.0, "target_reward": 0.5}
    assert moved_target(0.9, 1.0, **rule) == 1.0
    assert moved_target(0.1, 0.0, **rule) == 0.0


@given(unit, unit, unit, unit, st.floats(0, 10), st.floats(0, 10))
def test_a_better_reward_never_lowers_the_target(
    target: float, one: float, other: float, target_reward: float, eta: float, alpha: float
) -> None:
    worse, better = (
        moved_target(target, reward, eta=eta, alpha=alpha, target_reward=target_reward)
        for reward in sorted([one, other])
    )
    assert 0 <= worse <= better <= 1
    assert moved_target(target, target_reward, eta=eta, alpha=alpha, target_reward=target_reward) == target


def test_the_mean_reward_is_over_rollouts() -> None:
    """Task 0 has 1 of 2, task 1 has 10 of 14 in two rows: 11/16, whatever the order of the rows."""
    rows = np.array([[0, 1, 2], [1, 4, 7], [1, 6, 7], [2, 0, 0]], dtype=float)
    targets = []
    for order in ([0, 1, 2, 3], [2, 3, 1, 0]):
        selector = selector_of([0.5] * 3, initial=0.5)
        tasks, successes, counts = rows[order].T
        selector.observe(Evidence(tasks.astype(int), successes, counts))
        targets.append(target_of(selector))
    assert targets[0] == targets[1] == pytest.approx(0.5 + 0.5 * math.tanh(2 * (11 / 16 - 0.5)))


def test_evidence_without_rollouts_moves_nothing() -> None:
    selector = selector_of([0.5, 0.5], initial=0.3)
    selector.observe(Evidence(np.array([0]), np.zeros(1), np.zeros(1)))
    assert target_of(selector) == 0.3


def test_the_tasks_nearest_to_the_target_are_chosen() -> None:
    rates = [1.0, 0.25, 0.5, NAN, 0.0, 0.875]  # difficulties 0, 0.75, 0.5, unknown, 1, 0.125
    for target, expected in ((0.0, [0, 5, 2]), (0.6, [2, 1, 4]), (1.0, [4, 1, 2])):
        assert selector_of(rates, initial=target).select(3).tolist() == expected
    assert selector_of(rates).select(6).tolist() == [0, 5, 2, 1, 4, 3]


@given(
    st.lists(st.one_of(unit, st.just(NAN)), min_size=1, max_size=20).flatmap(
        lambda rates: st.tuples(st.just(rates), st.integers(1, len(rates)))
    ),
    unit,
    st.integers(0, 2**32 - 1),
)
def test_the_choice_agrees_with_a_full_sort(pool: tuple[list[float], int], target: float, seed: int) -> None:
    rates, batch_size = pool
    chosen = selector_of(rates, seed, target).select(batch_size)
    distance = np.abs(1 - np.array(rates) - target)
    assert len(set(chosen.tolist())) == batch_size
    np.testing.assert_allclose(distance[chosen], np.sort(distance)[:batch_size], atol=1e-11)


def test_ties_are_broken_at_random_also_across_the_target() -> None:
    """Difficulties 0.2 and 0.8 are equally far from 0.5, though not to the last bit; task 2 is always in."""
    selector, draws = selector_of([0.8, 0.2, 0.5, 0.8, 0.2], initial=0.5, seed=3), 3000
    batches = np.array([selector.select(3) for _ in range(draws)])
    assert (batches[:, 0] == 2).all()
    assert stats.chisquare(np.bincount(batches[:, 1:].ravel(), minlength=5)[[0, 1, 3, 4]]).pvalue > 1e-3


def test_good_rewards_lead_to_harder_tasks() -> None:
    selector = selector_of([1.0, 0.6, 0.4, 0.0])
    batches = []
    for _ in range(4):
        batch = selector.select(1)
        batches.append(batch.tolist())
        selector.observe(Evidence(batch, np.array([8.0]), np.array([8.0])))
    assert batches == [[0], [1], [2], [3]]  # targets 0, 0.38, 0.76, 1 for difficulties 0, 0.4, 0.6, 1


def test_a_resumed_selector_draws_what_the_uninterrupted_one_draws() -> None:
    def step(selector: AdaRFTSelector) -> list[int]:
        batch = selector.select(4)
        selector.observe(Evidence(batch, (3 * batch % 9).astype(np.float64), np.full(4, 8.0)))
        return batch.tolist()

    rates = [0.5, NAN, 0.5, 0.1, 0.3, 0.5, 0.5, NAN, 0.1]
    uninterrupted, resumed = selector_of(rates, seed=1), selector_of(rates, seed=2, initial=0.9)
    for _ in range(5):
        step(uninterrupted)
    resumed.load_state_dict(uninterrupted.state_dict())
    assert [step(resumed) for _ in range(10)] == [step(uninterrupted) for _ in range(10)]
    assert resumed.metrics() == uninterrupted.metrics()
    resumed.setup(TaskFeatures(9, {"large": np.array(rates)}))
    assert target_of(resumed) == 0.9


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"eta": -1.0}, "eta=-1.0; expected a finite number, at least 0"),
        ({"alpha": NAN}, "alpha=nan; expected a finite number, at least 0"),
        ({"alpha": math.inf}, "alpha=inf; expected a finite number, at least 0"),
        ({"target_reward": 50.0}, "target_reward=50.0; expected at least 0 and at most 1"),
        ({"initial_difficulty": -0.1}, "initial_difficulty=-0.1; expected at least 0 and at most 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], seen: str) -> None:
    with pytest.raises(ValueError, match=f"^{seen}"):
        AdaRFTSelector("large", **options)


def test_a_missing_column_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no reference column 'large'; it has none\. Add"):
        AdaRFTSelector("large").setup(TaskFeatures(1))
