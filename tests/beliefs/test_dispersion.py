"""Rewards that are not 0 or 1: their dispersion, and intervals of the mean reward with the stated coverage."""

# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task, K groups.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bots_lightning.beliefs import AbilityBelief, Belief, BetaBelief, Evidence, RewardDispersion, TaskFeatures

Law = Callable[[np.random.Generator, np.ndarray], np.ndarray]
G = 8


def beta_rewards(rng: np.random.Generator, tasks: np.ndarray) -> np.ndarray:
    """Beta(6μ, 6(1−μ)): φ = 1/7 whatever the mean μ is."""
    mean = means_of(tasks)
    return rng.beta(6 * mean, 6 * (1 - mean), (G, len(tasks))).T


def partial_credit(rng: np.random.Generator, tasks: np.ndarray) -> np.ndarray:
    """k of 5 tests passed, by programs that differ: Beta-binomial of concentration 3, φ = (1/5)(1 + 4/4) = 0.4."""
    mean = means_of(tasks)
    return rng.binomial(5, rng.beta(3 * mean, 3 * (1 - mean), (G, len(tasks)))).T / 5


def length_penalised(rng: np.random.Generator, tasks: np.ndarray) -> np.ndarray:
    """0 if not solved, else 1 less a penalty for length, uniform up to 0.8."""
    solved = rng.random((G, len(tasks))) < means_of(tasks)
    return (solved * (1 - rng.uniform(0, 0.8, (G, len(tasks))))).T


def means_of(tasks: np.ndarray) -> np.ndarray:
    """Fixed for each task, in (0.05, 0.95)."""
    return 0.05 + 0.9 * ((tasks * 0.6180339887) % 1)


LAWS: dict[str, tuple[Law, Callable[[np.ndarray], np.ndarray]]] = {
    "beta": (beta_rewards, means_of),
    "partial credit": (partial_credit, means_of),
    "length-penalised": (length_penalised, lambda tasks: 0.6 * means_of(tasks)),
}


def of_table(tasks: np.ndarray, rewards: np.ndarray) -> Evidence:
    """Evidence of (B, G) rewards."""
    return Evidence.from_rewards(tasks, rewards.ravel(), np.full(len(rewards), rewards.shape[1]))


def dispersion_of(
    rewards: np.ndarray, groups: np.ndarray | None = None, num_groups: int = 1, **options: float
) -> RewardDispersion:
    observed = RewardDispersion(num_groups, **options)
    tasks = np.arange(len(rewards))
    observed.observe(of_table(tasks, rewards), np.zeros_like(tasks) if groups is None else groups)
    return observed


def test_dispersion_by_hand() -> None:
    """Rewards 0.25 and 0.75: W = 10/16 − 1/2 = 1/8, F = 1 − 1/2 = 1/2, F − (F − W)/2 = 5/16."""
    observed = dispersion_of(np.array([[0.25, 0.75]]))
    assert observed.dispersion[0] == (1 + 1 / 8) / (1 + 5 / 16)
    assert observed.extreme_share[0] == (1 + 0) / (1 + 2)
    # 1, 0 and 1/2: W = 5/4 − 3/4 = 1/2, F = 3/2 − 3/4 = 3/4, F − (F − W)/3 = 2/3; two of three are at an end.
    observed.observe(of_table(np.array([5]), np.array([[1, 0, 0.5]])), np.zeros(1, dtype=int))
    assert observed.dispersion[0] == pytest.approx((1 + 1 / 8 + 1 / 2) / (1 + 5 / 16 + 2 / 3), rel=1e-15)
    assert observed.extreme_share[0] == (1 + 2) / (1 + 5)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=7, max_size=7), min_size=1, max_size=20))
def test_binary_rewards_are_bernoulli_trials_exactly(rewards: list[list[float]]) -> None:
    evidence = of_table(np.arange(len(rewards)), np.array(rewards)).merged()
    observed = RewardDispersion(3)
    groups = evidence.indices % 3
    for _ in range(3):
        observed.observe(evidence, groups)
        np.testing.assert_array_equal(observed.dispersion, 1.0)
        np.testing.assert_array_equal(observed.extreme_share, 1.0)
    trials = observed.as_bernoulli_trials(evidence, groups)
    np.testing.assert_array_equal(trials.successes, evidence.successes)
    np.testing.assert_array_equal(trials.counts, evidence.counts)


@pytest.mark.parametrize("rollouts", [2, 4, 8])
@pytest.mark.parametrize("law", LAWS)
def test_dispersion_and_extremes_are_unbiased(law: str, rollouts: int) -> None:
    """Of few rollouts too: φ is E[Var(r)] / E[p (1−p)] over tasks."""
    rng = np.random.default_rng(17)
    rewards_of, mean_of = LAWS[law]
    tasks = np.arange(40_000)
    rewards = rewards_of(rng, tasks)[:, :rollouts]
    many = np.concatenate([rewards_of(rng, tasks) for _ in range(5)], axis=1)
    mean = mean_of(tasks)
    expected = ((many - mean[:, None]) ** 2).mean() / (mean * (1 - mean)).mean()
    observed = dispersion_of(rewards)
    assert observed.dispersion[0] == pytest.approx(expected, rel=0.02)
    assert observed.extreme_share[0] == pytest.approx(np.isin(many, [0.0, 1.0]).mean(), abs=0.01)


def test_known_dispersions() -> None:
    rng, tasks = np.random.default_rng(1), np.arange(40_000)
    assert dispersion_of(beta_rewards(rng, tasks)).dispersion[0] == pytest.approx(1 / 7, rel=0.02)
    assert dispersion_of(partial_credit(rng, tasks)).dispersion[0] == pytest.approx(0.4, rel=0.02)


def test_little_evidence_is_shrunk_to_a_dispersion_of_one() -> None:
    """One task of two rewards moves φ from 1 to (w + 1/8)/(w + 5/16): the more, the smaller w."""
    rewards = np.array([[0.25, 0.75]])
    for prior in (0.1, 1.0, 100.0):
        expected = (prior + 1 / 8) / (prior + 5 / 16)
        assert dispersion_of(rewards, prior=prior).dispersion[0] == pytest.approx(expected, rel=1e-14)
    assert RewardDispersion(2).dispersion.tolist() == RewardDispersion(2).extreme_share.tolist() == [1.0, 1.0]


def test_dispersion_has_a_lower_bound() -> None:
    constant = np.full((1000, 8), 0.5)
    assert dispersion_of(constant).dispersion[0] == 0.02
    assert dispersion_of(constant, least=0.3).dispersion[0] == 0.3


def test_every_group_has_its_own_dispersion() -> None:
    rewards = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.25, 0.75]])
    observed = dispersion_of(rewards, np.array([0, 1, 0, 1]), num_groups=3)
    alone = dispersion_of(rewards[1::2])
    np.testing.assert_array_equal(observed.dispersion, [1, alone.dispersion[0], 1])
    np.testing.assert_array_equal(observed.extreme_share, [1, alone.extreme_share[0], 1])
    trials = observed.as_bernoulli_trials(Evidence(np.array([8, 9]), np.ones(2), np.full(2, 2.0)), np.array([0, 1]))
    np.testing.assert_allclose(trials.counts, [2, 2 / alone.dispersion[0]])
    np.testing.assert_allclose(trials.successes, [1, 1 / alone.dispersion[0]])


def test_added_groups_start_at_a_dispersion_of_one_and_the_state_survives() -> None:
    observed = dispersion_of(np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0, 1]), num_groups=2)
    grown, restored = observed.grown(3), RewardDispersion(3)
    np.testing.assert_array_equal(grown.dispersion, [*observed.dispersion, 1.0])
    restored.load_state_dict(grown.state_dict())
    more = of_table(np.array([0, 1]), np.array([[0.1, 0.3], [0.5, 1.0]]))
    for one in (grown, restored):
        one.observe(more, np.array([2, 0]))
    np.testing.assert_array_equal(restored.dispersion, grown.dispersion)
    np.testing.assert_array_equal(restored.extreme_share, grown.extreme_share)
    assert observed.dispersion[0] != grown.dispersion[0]  # which has not touched the one that it came from


# --- the intervals --------------------------------------------------------------------------------------------------


def coverage(belief: Belief, law: str, with_squares: bool = True) -> float:
    """How often the 90 % interval holds a task's true mean reward, after 2 to 6 visits to each of 600 tasks."""
    rng, num_tasks = np.random.default_rng(23), 600
    rewards_of, mean_of = LAWS[law]
    belief.setup(TaskFeatures(num_tasks))
    visits = np.repeat(np.arange(num_tasks), 2 + np.arange(num_tasks) % 5)
    for batch in np.array_split(rng.permutation(visits), len(visits) // 24):
        at = np.unique(batch)
        evidence = of_table(at, rewards_of(rng, at))
        belief.observe(evidence if with_squares else Evidence(at, evidence.successes, evidence.counts))
    concentrations = belief.concentrations()
    assert concentrations is not None
    low, high = stats.beta.ppf([[0.05], [0.95]], *concentrations)
    mean = mean_of(np.arange(num_tasks))
    return float(((low <= mean) & (mean <= high)).mean())


BELIEFS: dict[str, Callable[[], Belief]] = {
    "beta": lambda: BetaBelief(forgetting=0.0),
    "ability": lambda: AbilityBelief(task_drift=0.0, ability_drift=0.0),
}


@pytest.mark.parametrize("belief", BELIEFS)
@pytest.mark.parametrize("law", LAWS)
def test_ninety_percent_intervals_hold_the_true_mean_reward(law: str, belief: str) -> None:
    assert 0.85 <= coverage(BELIEFS[belief](), law) <= 0.95


@pytest.mark.parametrize("belief", BELIEFS)
@pytest.mark.parametrize("law", LAWS)
def test_raw_fractional_counts_make_intervals_that_are_too_wide(law: str, belief: str) -> None:
    assert coverage(BELIEFS[belief](), law, with_squares=False) > 0.97
