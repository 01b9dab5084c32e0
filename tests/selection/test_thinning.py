"""Thompson sampling in large pools: the same distribution as a draw for every task."""

# Shapes: N tasks in the pool, J kinds of tasks with the same posterior.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from bots_lightning.beliefs import AbilityBelief, Belief, BetaBelief, TaskFeatures
from bots_lightning.beliefs.beta_posterior import octave_cells
from bots_lightning.beliefs.logit_beta import logit_cells, match_beta
from bots_lightning.selection import SelectionRules, ThompsonSelector, thompson
from bots_lightning.selection.chunks import Eligible
from bots_lightning.selection.thinning import _bounds, draws_within, first_radius, next_radius

KINDS = [(1.0, 1.0), (2.0, 5.0), (9.0, 1.5), (40.0, 44.0), (0.5, 0.5)]  # (α, β)
MOMENTS = [(0.0, 6.0), (-1.0, 0.8), (3.0, 1.5), (0.2, 0.05), (-4.0, 2.5)]  # (m, v) of the logit


def known(posteriors: list[tuple[float, float]], each: int, ability: bool) -> Belief:
    """A belief about this many tasks of each kind, in rotation."""
    first, second = np.tile(np.array(posteriors).T, each)
    features = TaskFeatures(len(first))
    if ability:
        visited = AbilityBelief()
        visited.setup(features)
        visited.logit[:], visited.variance[:], visited.last[:] = first, second, 0
        return visited
    belief = BetaBelief()
    belief.setup(features)
    belief.successes[:], belief.failures[:] = first - 1, second - 1
    belief.step = belief.last[:] = 1
    return belief


def concentrations_of(belief: Belief, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    found = belief.concentrations(np.arange(kinds))
    assert found is not None
    return found


def selector_of(belief: Belief, num_tasks: int, target: float, monkeypatch: pytest.MonkeyPatch) -> ThompsonSelector:
    """A selector that thins whatever the size of the pool."""
    monkeypatch.setattr(thompson, "DENSE", 0)
    monkeypatch.setattr(belief, "setup", lambda features: None)
    selector = ThompsonSelector(belief, target)
    selector.setup(TaskFeatures(num_tasks), seed=12)
    return selector


BELIEFS = [(KINDS, False), (MOMENTS, True)]


# --- the law --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "radius"), [(0.5, 0.03), (0.3, 0.2), (0.0, 0.02), (1.0, 0.1), (0.7, 1.0)])
@pytest.mark.parametrize(("posteriors", "ability"), BELIEFS)
@pytest.mark.parametrize("slots", [False, True])
def test_every_task_lies_within_the_radius_as_often_as_its_beta_says_and_there_follows_its_density(
    posteriors: list[tuple[float, float]], ability: bool, target: float, radius: float, slots: bool
) -> None:
    each, repeats, kinds = 500, 20, len(posteriors)
    belief, rng = known(posteriors, each, ability), np.random.default_rng(7)
    everything = Eligible(np.empty(0, dtype=np.int64), np.zeros(kinds * each, dtype=np.uint8))
    radii = np.array([radius])
    if slots:  # each kind is a group; the even ones have half the radius, the last is not wanted
        codes = (np.arange(kinds * each) % kinds).astype(np.uint8)
        of_kind = np.array([*(kind % 2 for kind in range(kinds - 1)), 2], dtype=np.uint8)
        everything, radii = Eligible(everything.blocked, codes, of_kind), np.array([radius / 2, radius, 0.0])
    found = [draws_within(belief, target, radii, kinds * each, everything, rng) for _ in range(repeats)]
    tasks, draws = np.concatenate([t for t, _ in found]), np.concatenate([d for _, d in found])
    alpha, beta = concentrations_of(belief, kinds)
    for kind in range(kinds):
        mine = radii[of_kind[kind]] if slots else radius
        assert (np.abs(draws - target)[tasks % kinds == kind] <= mine * (1 + 1e-12)).all()
        low, high = stats.beta.cdf([max(target - mine, 0), min(target + mine, 1)], alpha[kind], beta[kind])
        drawn = draws[tasks % kinds == kind]
        assert stats.binomtest(len(drawn), each * repeats, min(high - low, 1.0)).pvalue > 1e-4
        if len(drawn) > 50:
            inside = (stats.beta.cdf(drawn, alpha[kind], beta[kind]) - low) / (high - low)
            assert stats.kstest(inside, "uniform").pvalue > 1e-4


def probabilities_of_the_kinds(alpha: np.ndarray, beta: np.ndarray, each: int, target: float) -> np.ndarray:
    """(J,) P(the nearest draw is of the kind) = ∫ n f_j(d) (1 − F_j(d))^(n−1) Π_{i≠j} (1 − F_i(d))^n dd."""
    distance = np.linspace(0, max(target, 1 - target), 200_001)[:, None]
    below = stats.beta.cdf(target + distance, alpha, beta) - stats.beta.cdf(target - distance, alpha, beta)
    beyond = 1 - (below[1:] + below[:-1]) / 2
    nobody = np.prod(beyond**each, axis=1)[:, None]
    return (each * np.diff(below, axis=0) * nobody / np.maximum(beyond, 1e-300)).sum(axis=0)


@pytest.mark.parametrize(
    ("posteriors", "ability", "target"),
    [(KINDS, False, 0.5), (KINDS, False, 0.25), (KINDS, False, 1.0), (MOMENTS, True, 0.5), (MOMENTS, True, 0.1)],
)
def test_frequencies_agree_with_the_exact_probabilities(
    posteriors: list[tuple[float, float]], ability: bool, target: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    each, selections, kinds = 60, 2000 if ability else 4000, len(posteriors)  # some ms each, with matched moments
    belief = known(posteriors, each, ability)
    expected = probabilities_of_the_kinds(*concentrations_of(belief, kinds), each, target)
    assert expected.sum() == pytest.approx(1, abs=1e-3)
    selector = selector_of(belief, kinds * each, target, monkeypatch)
    counts = np.bincount([selector.select(1)[0] % kinds for _ in range(selections)], minlength=kinds)
    assert selector._radius[0] < 0.5  # draws were indeed left out
    likely = selections * expected > 5
    assert counts[~likely].sum() <= 8 + 4 * selections * expected[~likely].sum()
    wanted = expected[likely] / expected[likely].sum()
    assert stats.chisquare(counts[likely], counts[likely].sum() * wanted).pvalue > 0.001


def test_the_picks_of_a_large_pool_are_the_nearest_of_draws_for_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Λ(d) the expected number of draws within d, Λ of the j-th distance is Gamma(j) in a large pool."""
    rng, num_tasks, batch_size, selections = np.random.default_rng(1), 200_000, 8, 150
    belief = BetaBelief()
    belief.setup(TaskFeatures(num_tasks))
    kind = rng.integers(40, size=num_tasks)
    belief.successes[:], belief.failures[:] = rng.gamma(1, 6, 40)[kind], rng.gamma(1, 6, 40)[kind]
    belief.step = belief.last[:] = 1
    alpha, beta = belief.concentrations()
    kinds, first, sizes = np.unique(kind, return_index=True, return_counts=True)
    found: dict[str, Any] = {}

    def recorded(*args: Any) -> tuple[np.ndarray, np.ndarray]:
        found["tasks"], found["draws"] = draws_within(*args)
        return found["tasks"], found["draws"]

    monkeypatch.setattr(thompson, "draws_within", recorded)
    selector = selector_of(belief, num_tasks, 0.4, monkeypatch)
    distances, picked = [], []
    for _ in range(selections):
        batch = selector.select(batch_size)
        distance = dict(zip(found["tasks"].tolist(), np.abs(found["draws"] - 0.4).tolist(), strict=True))
        distances.append([distance[task] for task in batch.tolist()])
        picked.append(batch)
        assert distances[-1] == sorted(distance.values())[:batch_size]
    assert len(found["tasks"]) < 500
    nearest = np.array(distances)[:, [0, 3, 7]]
    within = [
        stats.beta.cdf(0.4 + nearest, alpha[k], beta[k]) - stats.beta.cdf(0.4 - nearest, alpha[k], beta[k])
        for k in first
    ]
    expected = np.tensordot(sizes, np.array(within), 1)
    for at, rank in enumerate((1, 4, 8)):
        assert stats.kstest(expected[:, at], stats.gamma(rank).cdf).pvalue > 0.001
    density = sizes * stats.beta.pdf(0.4, alpha[first], beta[first])
    wanted = selections * batch_size * density / density.sum()
    counts = np.bincount(np.searchsorted(kinds, kind[np.concatenate(picked)]), minlength=len(kinds))
    common = wanted > 5
    observed = np.r_[counts[common], counts[~common].sum()]
    assert stats.chisquare(observed, np.r_[wanted[common], wanted[~common].sum()]).pvalue > 0.001


# --- the bound ------------------------------------------------------------------------------------------------------


def posteriors_of(ability: bool, n: int = 4000) -> tuple[Belief, np.ndarray, np.ndarray, np.ndarray]:
    """Random ones, also beyond the grid: belief, cells, α and β."""
    rng = np.random.default_rng(31)
    if ability:
        mean, variance = rng.normal(0, 3, n), np.exp(rng.uniform(-9, 4.5, n))
        mean[:200] *= 4
        return AbilityBelief(), logit_cells(mean, variance), *match_beta(mean, variance)
    alpha, beta = np.exp(rng.uniform(np.log(1e-3), np.log(2e5), (2, n)))
    near = rng.random(n) < 0.5  # the others lie near 0 or 1
    beta[near] = alpha[near] * np.exp(rng.normal(0, 1, near.sum()))
    return BetaBelief(), octave_cells(alpha.astype(np.float32), beta.astype(np.float32)), alpha, beta


@pytest.mark.parametrize("target", [0.0, 0.1, 0.37, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("ability", [False, True])
def test_the_bound_of_a_cell_is_one_for_every_posterior_in_it(ability: bool, target: float) -> None:
    belief, cells, alpha, beta = posteriors_of(ability)
    for radius in 2.0 ** -np.arange(0, 22, 3):
        low, high = max(target - radius, 0.0), min(target + radius, 1.0)
        bound = _bounds(belief, low, high)[cells].astype(np.float64)
        below = stats.beta.cdf(high, alpha, beta) - stats.beta.cdf(low, alpha, beta)
        above = stats.beta.sf(low, alpha, beta) - stats.beta.sf(high, alpha, beta)
        exact = np.where(alpha > beta, above, below)
        assert (exact <= bound + 1e-9).all()
        assert bound.max() <= 1


def test_the_bound_leaves_few_candidates_too_many() -> None:
    """Of posteriors within the grid, whose density hardly changes within the radius: two for each that is kept."""
    rng = np.random.default_rng(2)
    alpha, beta = rng.uniform(0.5, 40, (2, 4000))
    bound = _bounds(BetaBelief(), 0.49, 0.51)[octave_cells(alpha.astype(np.float32), beta.astype(np.float32))]
    exact = stats.beta.cdf(0.51, alpha, beta) - stats.beta.cdf(0.49, alpha, beta)
    assert bound.sum() < 2 * exact.sum()


# --- the radius -----------------------------------------------------------------------------------------------------


def test_the_first_radius_by_hand() -> None:
    """3·8 + 20 = 44 draws of 1,000 at a density of 1/2: 0.044, next power of 2; never more than the whole range."""
    assert first_radius(1000, 8) == 2.0**-4
    assert first_radius(10_000_000, 8) == 2.0**-17  # 44e-7 < 2^-17 = 76e-7
    assert first_radius(10, 8) == 1.0


def test_the_radius_follows_what_was_found() -> None:
    assert next_radius(0.25, 8 * 4 + 81, 4) == 0.125
    assert next_radius(0.25, 8 * 4 + 80, 4) == 0.25
    assert next_radius(0.25, 2 * 4 + 16, 4) == 0.25
    assert next_radius(0.25, 2 * 4 + 15, 4) == 0.5
    assert next_radius(0.75, 0, 4) == 1.0


def test_a_pool_with_few_eligible_tasks_gives_these(monkeypatch: pytest.MonkeyPatch) -> None:
    belief = known(KINDS, 200, ability=False)
    selector = selector_of(belief, 1000, 0.5, monkeypatch)
    left = [3, 77, 500]
    eligible = Eligible(np.delete(np.arange(1000), left), np.zeros(1000, dtype=np.uint8))
    orders = {tuple(selector._choose(np.array([5]), eligible)[0].tolist()) for _ in range(100)}
    assert {tuple(sorted(order)) for order in orders} == {tuple(left)}
    assert len(orders) > 1
    assert selector._radius[0] == 1.0


def test_a_radius_that_was_too_small_is_widened_and_too_wide_is_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    selector = selector_of(known([(30.0, 30.0), (1.0, 9.0)], 1500, ability=False), 3000, 0.5, monkeypatch)
    for start in (2.0**-30, 1.0):
        selector._radius[:] = start
        for _ in range(20):
            assert len(set(selector.select(6).tolist())) == 6
        assert 2.0**-11 <= selector._radius[0] <= 2.0**-7  # 28 to 128 of 1,500 draws, whose density there is 6


def test_each_slot_has_its_own_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thompson, "DENSE", 0)
    groups = np.array(["rare"] * 30 + ["common"] * 6000)
    selector = ThompsonSelector(BetaBelief(), rules=SelectionRules(group_quotas={"rare": 0.5}))
    selector.setup(TaskFeatures(6030, groups=groups))
    for _ in range(12):
        assert (selector.select(6) < 30).sum() == 3
    assert selector._radius[0] >= 0.25
    assert selector._radius[1] <= 2.0**-6


def test_the_radii_of_an_earlier_version_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions kept a radius for each slot, but none for the whole pool."""
    monkeypatch.setattr(thompson, "DENSE", 0)
    groups = np.array(["rare"] * 30 + ["common"] * 600)
    saved, resumed = (ThompsonSelector(BetaBelief(), rules=SelectionRules(group_quotas={"rare": 0.5})) for _ in "ab")
    for selector in (saved, resumed):
        selector.setup(TaskFeatures(630, groups=groups))
    saved.select(6)
    state = saved.state_dict()
    resumed.load_state_dict(state | {"radius": state["radius"][:2]})
    np.testing.assert_array_equal(resumed._radius, saved._radius)
    np.testing.assert_array_equal(resumed.select(6), saved.select(6))
