# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from bots_lightning.beliefs import BetaBelief, Evidence, TaskFeatures
from bots_lightning.selection import ProportionalSelector
from bots_lightning.selection.chunks import Eligible

RATES = np.array([0.5, 0.3, 0.15, 0.08, 0.95, 0.6])


@pytest.fixture(params=["dense", "rejection"])
def law(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of drawing, whatever the size of the pool."""
    monkeypatch.setattr("bots_lightning.selection.proportional.DENSE", 1 << 14 if request.param == "dense" else 0)
    return request.param


def selector_of(posteriors: list[tuple[float, float]], seed: int = 0, **options: Any) -> ProportionalSelector:
    """A selector whose tasks have the given (α, β)."""
    belief = BetaBelief(prior=(1e-12, 1e-12))
    selector = ProportionalSelector(belief, **options)
    selector.setup(TaskFeatures(len(posteriors)), seed)
    belief.successes[:], belief.failures[:] = np.array(posteriors).T
    belief.step = belief.last[:] = 1
    return selector


def exactly(rates: np.ndarray) -> list[tuple[float, float]]:
    """Posteriors that know the rate."""
    return [(1e9 * rate, 1e9 * (1 - rate)) for rate in rates]


def weights_of(rates: np.ndarray, power: float, g: int) -> np.ndarray:
    return (1 - rates**g - (1 - rates) ** g) ** power


@pytest.mark.parametrize(("power", "g"), [(8.0, 16), (1.0, 8), (3.0, 4)])
def test_frequencies_are_the_weights(law: str, power: float, g: int) -> None:
    selector, draws = selector_of(exactly(RATES), 3, power=power, num_generations=g), 3000
    counts = np.bincount([selector.select(1)[0] for _ in range(draws)], minlength=len(RATES))
    weights = weights_of(RATES, power, g)
    expected = draws * weights / weights.sum()
    assert expected.min() > 5
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_a_batch_is_drawn_without_replacement(law: str) -> None:
    """P(i, then j) = w_i/W · w_j/(W − w_i)."""
    rates = RATES[:4]
    selector, draws = selector_of(exactly(rates), 5, power=2.0, num_generations=4), 4000
    pairs = np.array([selector.select(2) for _ in range(draws)])
    w = weights_of(rates, 2.0, 4)
    expected = np.outer(w, w) / (w.sum() * (w.sum() - w))[:, None]
    off = ~np.eye(4, dtype=bool)
    assert expected[off].sum() == pytest.approx(1)
    counts = np.bincount(pairs @ [4, 1], minlength=16).reshape(4, 4)
    assert (counts[~off] == 0).all()
    assert stats.chisquare(counts[off], draws * expected[off]).pvalue > 0.001


def test_draws_enter_and_not_means(law: str) -> None:
    """Of uncertain tasks, in a pool of many: P(first is of kind j) ∝ E[U(p)^power] under its Beta."""
    kinds, each, draws = [(1.0, 1.0), (2.0, 9.0), (0.3, 0.3), (20.0, 20.0)], 100, 3000
    selector = selector_of(kinds * each, 9, power=4.0, num_generations=4)

    def expectation(alpha: float, beta: float) -> float:
        return quad(lambda p: stats.beta.pdf(p, alpha, beta) * weights_of(np.float64(p), 4.0, 4), 0, 1, limit=200)[0]

    expected = np.array([expectation(*kind) for kind in kinds])
    counts = np.bincount([selector.select(1)[0] % 4 for _ in range(draws)], minlength=4)
    assert stats.chisquare(counts, draws * expected / expected.sum()).pvalue > 0.001


def test_both_ways_agree_on_batches_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    posteriors = [(float(a), float(b)) for a, b in rng.gamma(1.5, 3, (300, 2)) + 0.2]
    frequencies = []
    for dense in (1 << 14, 0):
        monkeypatch.setattr("bots_lightning.selection.proportional.DENSE", dense)
        selector = selector_of(posteriors, 6)
        frequencies.append(np.bincount(np.concatenate([selector.select(10) for _ in range(1000)]), minlength=300))
    one, other = frequencies
    assert stats.chi2_contingency(np.stack([one, other])[:, one + other > 10]).pvalue > 0.001


def test_power_zero_is_uniform(law: str) -> None:
    selector = selector_of([*exactly(np.r_[RATES, 1e-6]), (1.0, 1.0)], 2, power=0.0)
    counts = np.bincount(np.concatenate([selector.select(3) for _ in range(1500)]), minlength=8)
    np.testing.assert_allclose(counts / 1500, 3 / 8, atol=0.05)  # 4 deviations


def test_if_nothing_is_informative_tasks_come_at_random(law: str) -> None:
    """Rejection gives up after N proposals; every eligible task is then equally likely, and none comes twice."""
    selector = selector_of(exactly(np.full(12, 1e-7)), 8)
    eligible = Eligible(np.array([0, 5]), np.zeros(12, dtype=np.uint8))
    chosen = [selector._choose(np.array([4]), eligible)[0] for _ in range(1000)]
    assert all(len(set(batch.tolist())) == 4 for batch in chosen)
    counts = np.bincount(np.concatenate(chosen), minlength=12)
    assert counts[[0, 5]].tolist() == [0, 0]
    np.testing.assert_allclose(np.delete(counts, [0, 5]) / 1000, 0.4, atol=0.065)
    assert sorted(selector._choose(np.array([50]), eligible)[0].tolist()) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


def test_the_group_size_follows_the_evidence_and_survives_a_resume() -> None:
    selector, resumed = (ProportionalSelector(BetaBelief(), num_generations=8) for _ in range(2))
    for one in (selector, resumed):
        one.setup(TaskFeatures(20), seed=1)
    selector.observe(Evidence(np.arange(3), np.array([1.0, 1.0, 0.0]), np.array([2.0, 2.0, 1.0])))
    resumed.load_state_dict(selector.state_dict())
    # G = 2: U = 2p (1−p), of which p = 1/2 has the most, 1/2.
    np.testing.assert_allclose(resumed._log_weights(np.array([0.5, 0.25])), [0, 8 * np.log(0.375 / 0.5)])
    for _ in range(10):
        np.testing.assert_array_equal(resumed.select(4), selector.select(4))
    selector.observe(Evidence(np.arange(1), np.array([1.0]), np.array([1.0])))  # one rollout cannot differ
    np.testing.assert_allclose(selector._log_weights(np.array([0.25])), 8 * np.log(0.375 / 0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": -1.0}, "power=-1.0; expected a finite number, at least 0"),
        ({"power": float("inf")}, "power=inf"),
        ({"num_generations": 1}, "num_generations=1; rewards of fewer than 2"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProportionalSelector(BetaBelief(), **options)
