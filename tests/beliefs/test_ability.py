# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task.

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit, polygamma

from bots_lightning.beliefs import AbilityBelief, Evidence, TaskFeatures
from bots_lightning.beliefs.design import reference_columns
from bots_lightning.beliefs.tweedie import score_and_information

NAN = float("nan")
G = 8.0


def features_of(n: int, groups: int = 1, seed: int = 0, missing: float = 0.0) -> TaskFeatures:
    """Two reference columns, the first with some unknown rates, and labelled groups."""
    rng = np.random.default_rng(seed)
    weak, strong = rng.beta(0.5, 0.6, n), rng.beta(0.8, 0.4, n)
    weak[rng.random(n) < missing] = NAN
    return TaskFeatures(n, {"strong": strong, "weak": weak}, np.array([f"g{k % groups}" for k in range(n)]))


def belief_of(features: TaskFeatures, **options: float) -> AbilityBelief:
    belief = AbilityBelief(**options)  # type: ignore[arg-type]
    belief.setup(features)
    return belief


def evidence_of(tasks: list[int], successes: list[float], count: float = G) -> Evidence:
    return Evidence(np.array(tasks), np.array(successes), np.full(len(tasks), count))


def random_evidence(rng: np.random.Generator, n: int, batch: int) -> Evidence:
    """Whole and fractional counts of distinct tasks, other numbers of rollouts each."""
    counts = rng.integers(1, 12, batch).astype(float)
    share = np.where(rng.random(batch) < 0.5, rng.random(batch), rng.integers(0, 2, batch))
    return Evidence(rng.permutation(n)[:batch], counts * share, counts)


def test_a_first_visit_without_references_by_hand() -> None:
    """One task, prior logit 0 with variance 6 = 2·ψ₁(a); nothing shared moves if A cannot."""
    belief = belief_of(TaskFeatures(2), ability_drift=0.0)
    alpha, beta = belief.concentrations()
    assert alpha[0] == pytest.approx(beta[0])
    assert 2 * polygamma(1, alpha[0]) == pytest.approx(6)
    belief.observe(evidence_of([1], [7.0]))
    after_alpha, after_beta = belief.concentrations(np.array([1]))
    belief.step -= 1  # as at the visit, before Q
    assert belief.concentrations(np.array([1]))[0][0] == pytest.approx(alpha[1] + 7)
    assert belief.concentrations(np.array([1]))[1][0] == pytest.approx(beta[1] + 1)
    assert after_alpha[0] < alpha[1] + 7
    assert after_beta[0] < beta[1] + 1


def test_score_and_information_are_the_derivatives_of_the_log_predictive() -> None:
    """Against a Gaussian logit observed with noise R, whose predictive is N(m, v + R)."""
    m, v, y, noise = np.array([0.3]), np.array([1.7]), 2.1, 0.6
    posterior = m + v / (v + noise) * (y - m), v * noise / (v + noise)
    score, information = score_and_information((m, v), posterior)
    assert score[0] == pytest.approx((y - 0.3) / (1.7 + 0.6))
    assert information[0] == pytest.approx(1 / (1.7 + 0.6))


def test_reference_columns_by_hand() -> None:
    columns = reference_columns(np.array([0.0, 1.0, NAN, 0.75]), 4.0)
    logits = np.log([0.5 / 4.5, 4.5 / 0.5, 3.5 / 1.5])
    np.testing.assert_allclose(columns[:, 0], [logits[0], logits[1], logits.mean(), logits[2]])
    np.testing.assert_array_equal(columns[:, 1], [0, 0, 1, 0])
    assert reference_columns(np.array([0.5, 0.5]), 4.0).shape == (2, 1)
    assert reference_columns(np.array([NAN, NAN]), 4.0).shape == (2, 0)


def test_the_order_of_a_batch_and_split_rows_are_irrelevant() -> None:
    features, rng = features_of(40, 3, missing=0.2), np.random.default_rng(2)
    one, other = belief_of(features), belief_of(features)
    for _ in range(40):
        evidence = random_evidence(rng, 40, 6)
        order = rng.permutation(6)
        half = Evidence(evidence.indices[order], evidence.successes[order] / 2, evidence.counts[order] / 2)
        one.observe(evidence)
        other.observe(Evidence.concatenate([half, half]))
    np.testing.assert_array_equal(np.array(one.predict()), np.array(other.predict()))


def test_evidence_without_rollouts_is_no_step() -> None:
    belief, untouched = belief_of(features_of(10)), belief_of(features_of(10))
    for each in (belief, untouched):
        each.observe(evidence_of([1, 2], [3.0, 8.0]))
    belief.observe(Evidence(np.array([4]), np.zeros(1), np.zeros(1)))
    belief.observe(Evidence(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0)))
    np.testing.assert_array_equal(np.array(belief.predict()), np.array(untouched.predict()))


def test_a_reference_without_rates_is_no_reference() -> None:
    rng = np.random.default_rng(0)
    none, unknown = belief_of(TaskFeatures(30)), belief_of(TaskFeatures(30, {"a": np.full(30, NAN)}))
    ignored = AbilityBelief(references=[])
    ignored.setup(features_of(30))
    for _ in range(20):
        evidence = random_evidence(rng, 30, 4)
        for belief in (none, unknown, ignored):
            belief.observe(evidence)
    np.testing.assert_array_equal(np.array(none.predict()), np.array(unknown.predict()))
    np.testing.assert_array_equal(np.array(none.predict()), np.array(ignored.predict()))


def test_a_reference_that_the_pool_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="no reference column 'medium'"):
        AbilityBelief(references=["medium"]).setup(features_of(5))


def test_references_get_weight_as_far_as_they_are_correct() -> None:
    """One of two references is correct, the other is noise: unvisited tasks follow the first."""
    rng, n = np.random.default_rng(5), 600
    truth = rng.normal(0, 2, n)
    belief = belief_of(TaskFeatures(n, {"right": expit(truth), "wrong": rng.random(n)}))
    for start in range(0, 400, 20):
        tasks = np.arange(start, start + 20)
        belief.observe(Evidence(tasks, rng.binomial(8, expit(truth[tasks])).astype(float), np.full(20, G)))
    mean, variance = belief.predict()
    assert belief.regression.weights[1] > 0.8
    assert abs(belief.regression.weights[2]) < 0.15
    assert np.corrcoef(mean[400:], truth[400:])[0, 1] > 0.97
    assert variance[400:].mean() < 0.8  # it was 2 before anything was seen


def test_unknown_rates_learn_their_own_level() -> None:
    """Tasks without a reference rate are the hard ones here: the indicator gets weight, and no NaN spreads."""
    rng, n = np.random.default_rng(6), 300
    rates = np.where(np.arange(n) % 3 == 0, NAN, 0.5)
    p = np.where(np.arange(n) % 3 == 0, 0.1, 0.6)
    belief = belief_of(TaskFeatures(n, {"a": rates}))
    for start in range(0, 200, 10):
        tasks = np.arange(start, start + 10)
        belief.observe(Evidence(tasks, rng.binomial(8, p[tasks]).astype(float), np.full(10, G)))
    np.testing.assert_allclose(belief.mean()[200:], p[200:], atol=0.1)


def test_progress_of_a_group_changes_its_unvisited_tasks_and_no_others() -> None:
    """Visits to the even half of group 0 only, whose logits rise by 0.05 a step."""
    n, rng = 80, np.random.default_rng(8)
    features = TaskFeatures(n, {}, np.array(["x", "y"])[np.arange(n) % 2])
    belief, level = belief_of(features, ability_drift=0.005), -1.5
    xs, ys = np.arange(0, n, 2), np.arange(1, n, 2)
    visited, unvisited = xs[:20], xs[20:]
    everything = Evidence(np.arange(n), rng.binomial(8, expit(level), n).astype(float), np.full(n, G))
    belief.observe(everything)
    before = belief.predict()[0]
    for _ in range(60):
        level += 0.05
        tasks = rng.permutation(visited)[:10]
        belief.observe(Evidence(tasks, rng.binomial(8, expit(level), 10).astype(float), np.full(10, G)))
    moved = belief.predict()[0] - before
    assert 1.5 < moved[unvisited].mean() < 3.5  # 3 is the truth
    assert moved[unvisited].min() > 1
    np.testing.assert_array_equal(moved[ys], 0)


def test_ninety_percent_intervals_hold_the_truth_of_a_pool_that_learns() -> None:
    """Deviations walk by Q, the ability rises; scored over seen and unseen tasks, before the step's evidence."""
    rng, n, steps = np.random.default_rng(11), 300, 150
    logits = rng.normal(-1, 1.4, n)
    belief = belief_of(TaskFeatures(n, {"a": expit(logits + rng.normal(0, 0.7, n))}))
    covered = []
    for step in range(steps):
        logits += rng.normal(0, np.sqrt(0.003), n) + 0.01
        if step >= 10:
            low, high = (stats.beta.ppf(q, *belief.concentrations()) for q in (0.05, 0.95))
            covered.append(((expit(logits) >= low) & (expit(logits) <= high)).mean())
        tasks = rng.permutation(n)[:16]
        belief.observe(Evidence(tasks, rng.binomial(8, expit(logits[tasks])).astype(float), np.full(16, G)))
    assert 0.85 < np.mean(covered) < 0.95


def test_draws_have_the_posterior_mean_and_variance() -> None:
    belief, rng = belief_of(features_of(20, 2)), np.random.default_rng(3)
    for _ in range(6):
        belief.observe(random_evidence(rng, 10, 3))
    alpha, beta = belief.concentrations()
    draws = np.array([belief.sample(rng) for _ in range(4000)])
    expected = stats.beta(alpha, beta)
    np.testing.assert_allclose(belief.mean(), expected.mean(), rtol=1e-12)
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - expected.mean()), 4.5 * expected.std() / np.sqrt(4000))
    np.testing.assert_allclose(draws.var(axis=0), expected.var(), rtol=0.12)
    mean, variance = belief.predict()
    np.testing.assert_allclose(logit(draws.clip(1e-300, 1 - 1e-16)).mean(axis=0), mean, atol=0.2)
    assert (variance > 0).all()


def test_a_task_that_nobody_visits_is_known_no_worse_than_the_cap() -> None:
    belief = belief_of(TaskFeatures(2), task_drift=0.5)
    belief.observe(evidence_of([0, 1], [4.0, 4.0]))
    for _ in range(100):
        belief.observe(evidence_of([0], [4.0]))
    assert belief.predict()[1][1] == 9
    assert belief.predict()[1][0] < 2


@pytest.mark.parametrize("successes", [0.0, 8.0])
def test_equal_rewards_for_ever_keep_everything_finite(successes: float) -> None:
    belief = belief_of(features_of(20, 2, missing=0.3))
    for step in range(300):
        belief.observe(evidence_of([step % 20, (step + 7) % 20], [successes, successes]))
    assert np.isfinite(np.array(belief.concentrations())).all()
    assert ((belief.mean() < 0.2) if successes == 0 else (belief.mean() > 0.8)).all()


def test_the_share_of_tried_tasks_counts_each_once() -> None:
    belief, restored = belief_of(features_of(8)), belief_of(features_of(8))
    assert belief.metrics()["belief/tried"] == 0
    belief.observe(evidence_of([1, 3], [2.0, 5.0]))
    belief.observe(evidence_of([3, 4, 3], [2.0, 5.0, 1.0]))
    assert belief.metrics()["belief/tried"] == 3 / 8
    restored.load_state_dict(belief.state_dict())
    restored.observe(evidence_of([0, 1], [2.0, 5.0]))
    assert restored.metrics()["belief/tried"] == 4 / 8


def test_a_restored_belief_makes_the_next_ten_draws_of_the_uninterrupted_one() -> None:
    features, rng = features_of(30, 3, missing=0.2), np.random.default_rng(9)
    belief, restored = belief_of(features), belief_of(features)
    for _ in range(15):
        belief.observe(random_evidence(rng, 30, 5))
    restored.load_state_dict(belief.state_dict())
    for step in range(10):
        draws = [each.sample(np.random.default_rng(step)) for each in (belief, restored)]
        np.testing.assert_array_equal(*draws)
        evidence = random_evidence(rng, 30, 5)
        belief.observe(evidence)
        restored.observe(evidence)
    assert belief.metrics() == restored.metrics()


def test_the_state_of_other_references_is_refused_and_changes_nothing() -> None:
    with_references, without = belief_of(features_of(6)), belief_of(TaskFeatures(6))
    with_references.observe(evidence_of([1], [3.0]))
    before = np.array(without.predict())
    with pytest.raises(ValueError, match=r"'weights' has shape \(3,\), this one's \(1,\)\. Resume with"):
        without.load_state_dict(with_references.state_dict())
    np.testing.assert_array_equal(np.array(without.predict()), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_drift": -0.1}, "task_drift=-0.1; expected a finite number, at least 0"),
        ({"ability_drift": NAN}, "ability_drift=nan"),
        ({"reference_rollouts": 0.0}, "reference_rollouts=0.0; expected a finite number, more than 0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AbilityBelief(**options)  # type: ignore[arg-type]
