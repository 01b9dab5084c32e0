# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bots_lightning.beliefs import BetaBelief, Evidence, TaskFeatures
from bots_lightning.selection import ThompsonSelector
from bots_lightning.selection.chunks import smallest

pools = st.lists(st.tuples(st.floats(0.2, 50), st.floats(0.2, 50)), min_size=1, max_size=30).flatmap(
    lambda posteriors: st.tuples(st.just(posteriors), st.integers(1, len(posteriors)))
)


def selector_of(
    posteriors: list[tuple[float, float]], target: float = 0.5, explore: bool = True, seed: int = 0
) -> ThompsonSelector:
    """A selector whose tasks have the given (α, β)."""
    alpha, beta = np.array(posteriors).T
    selector = ThompsonSelector(BetaBelief(), target, explore)
    selector.setup(TaskFeatures(len(posteriors)), seed)
    selector.belief.successes[:], selector.belief.failures[:] = alpha - 1, beta - 1  # type: ignore[attr-defined]
    return selector


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.data())
def test_smallest_agrees_with_a_full_sort(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    chosen = smallest(np.array(scores), k)
    assert len(set(chosen.tolist())) == k
    assert [scores[at] for at in chosen] == sorted(scores)[:k]


@given(pools, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_the_draws_nearest_to_the_target_are_chosen(
    pool: tuple[list[tuple[float, float]], int], target: float, seed: int
) -> None:
    posteriors, batch_size = pool
    selector, rng = selector_of(posteriors, target, seed=seed), np.random.default_rng(seed)
    for _ in range(3):
        distance = np.abs(rng.beta(*np.array(posteriors).T) - target)
        chosen = selector.select(batch_size)
        assert len(set(chosen.tolist())) == batch_size  # no task twice, all of them if B = N
        np.testing.assert_array_equal(distance[chosen], np.sort(distance)[:batch_size])
        if len(set(distance.tolist())) == len(distance):
            np.testing.assert_array_equal(chosen, np.argsort(distance)[:batch_size])


def probabilities_of_being_nearest(posteriors: list[tuple[float, float]], target: float) -> np.ndarray:
    """(N,) P(|p̂_k − p*| is the smallest) = ∫ f_k(d) Π_{j≠k} (1 − F_j(d)) dd, by quadrature over the distance d."""
    distance = np.linspace(0, max(target, 1 - target), 20_001)
    below = np.array(
        [stats.beta.cdf(target + distance, a, b) - stats.beta.cdf(target - distance, a, b) for a, b in posteriors]
    )
    middle = (below[:, 1:] + below[:, :-1]) / 2
    others_beyond = np.array([np.prod(np.delete(1 - middle, k, axis=0), axis=0) for k in range(len(posteriors))])
    return (np.diff(below, axis=1) * others_beyond).sum(axis=1)


@pytest.mark.parametrize("target", [0.5, 0.3, 1.0])
def test_frequencies_agree_with_the_exact_probabilities(target: float) -> None:
    posteriors = [(1.0, 1.0), (2.0, 4.0), (6.0, 1.5), (4.0, 4.0), (0.5, 0.5), (3.0, 5.0)]
    expected = probabilities_of_being_nearest(posteriors, target)
    assert expected.sum() == pytest.approx(1, abs=1e-4)
    selector, draws = selector_of(posteriors, target, seed=12), 6000
    counts = np.bincount([selector.select(1)[0] for _ in range(draws)], minlength=len(posteriors))
    assert stats.chisquare(counts, draws * expected / expected.sum()).pvalue > 0.001


def test_frequencies_of_a_batch_agree_with_independent_draws() -> None:
    """Draws by the inverse distribution function, sorted in full."""
    posteriors = [(1.0, 1.0), (2.0, 5.0), (9.0, 1.5), (4.0, 4.0), (1.0, 9.0), (20.0, 30.0)]
    uniforms = np.random.default_rng(99).random((40_000, len(posteriors)))
    alpha, beta = np.array(posteriors).T
    nearest = np.argsort(np.abs(stats.beta.ppf(uniforms, alpha, beta) - 0.5), axis=1)[:, :3]
    expected = np.bincount(nearest.ravel(), minlength=6) / len(uniforms)
    selector, draws = selector_of(posteriors, seed=8), 4000
    chosen = np.concatenate([selector.select(3) for _ in range(draws)])
    np.testing.assert_allclose(np.bincount(chosen, minlength=6) / draws, expected, atol=0.03)  # 3.8 deviations


def test_without_exploration_the_means_nearest_to_the_target_come_first() -> None:
    means = [0.05, 0.45, 0.9, 0.75, 0.52, 0.3]
    selector = selector_of([(10 * mean, 10 * (1 - mean)) for mean in means], explore=False)
    for _ in range(20):
        assert selector.select(4).tolist() == [4, 1, 5, 3]
    lower = selector_of([(10 * mean, 10 * (1 - mean)) for mean in means], target=0.12, explore=False)
    assert lower.select(3).tolist() == [0, 5, 1]


def test_without_exploration_ties_are_broken_at_random_over_the_whole_pool() -> None:
    """Two tasks are nearer than the ten tied ones, which share the other three places evenly."""
    posteriors = [(1.0, 3.0)] * 5 + [(1.0, 1.1), (1.0, 1.0)] + [(3.0, 1.0)] * 5 + [(1.0, 99.0)]
    selector, draws = selector_of(posteriors, explore=False, seed=3), 4000
    batches = np.array([selector.select(5) for _ in range(draws)])
    np.testing.assert_array_equal(batches[:, :2], np.tile([6, 5], (draws, 1)))
    counts = np.bincount(batches[:, 2:].ravel(), minlength=len(posteriors))
    assert counts[-1] == 0
    tied = np.delete(counts, [5, 6, 12])
    np.testing.assert_allclose(tied / draws, 3 / 10, atol=0.03)  # 4.1 standard deviations


def test_without_exploration_equal_distances_on_either_side_are_ties() -> None:
    selector = selector_of([(2, 8), (8, 2), (2, 8), (8, 2)], explore=False, seed=5)
    counts = np.bincount(np.concatenate([selector.select(2) for _ in range(2000)]), minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_evidence_moves_the_choice() -> None:
    selector = ThompsonSelector(BetaBelief(forgetting=0.0), explore=False)
    selector.setup(TaskFeatures(4))
    selector.observe(Evidence(np.array([0, 1, 3]), np.array([8.0, 4.5, 0.0]), np.full(3, 8.0)))
    assert selector.select(2).tolist() == [2, 1]  # means 0.9, 0.55, 0.5, 0.1
    assert selector.metrics()["belief/evidence"] == pytest.approx(3 * 8 / 4)


@pytest.mark.parametrize("explore", [True, False])
def test_a_batch_as_large_as_the_pool_holds_every_task(explore: bool) -> None:
    selector = selector_of([(1.0, 1.0)] * 7, explore=explore)
    assert sorted(selector.select(7).tolist()) == list(range(7))


@pytest.mark.parametrize("target", [-0.1, 1.1, float("nan")])
def test_an_impossible_target_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=f"target_pass_rate={target}; expected at least 0 and at most 1"):
        ThompsonSelector(BetaBelief(), target)
