# Shapes: N tasks in the pool, B rows in the step, G rollouts per task.

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import BetaBelief, Evidence, ReferenceInterpolation, TaskFeatures

NAN = float("nan")
# (task, count, successes): one row of evidence.
Row = tuple[int, float, float]

WEAK = [0.2, 0.4, 0.1, NAN, 0.3, NAN, 0.5, 0.0]
STRONG = [0.6, 0.8, 0.5, 0.9, NAN, NAN, 0.5, 1.0]
UNPREDICTED = [3, 4, 5]  # a reference is missing


def features_of(weak: list[float], strong: list[float]) -> TaskFeatures:
    return TaskFeatures(len(weak), {"small": np.array(weak), "large": np.array(strong)})


def belief_of(
    forgetting: float = 0.1,
    implicit_weight: float = 0.1,
    prior: tuple[float, float] = (1.0, 1.0),
    weak: list[float] = WEAK,
    strong: list[float] = STRONG,
) -> BetaBelief:
    belief = BetaBelief(forgetting, implicit_weight, prior, ReferenceInterpolation("small", "large"))
    belief.setup(features_of(weak, strong))
    return belief


def evidence_of(rows: list[Row]) -> Evidence:
    tasks, counts, successes = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Evidence(tasks.astype(np.int64), successes, counts)


@dataclass
class BruteForce:
    """The update of BOTS task by task on plain numbers, from the definition and without numpy."""

    forgetting: float
    implicit_weight: float
    prior: tuple[float, float]
    weak: list[float]
    strong: list[float]
    momentum: float = 0.9
    min_gap: float = 0.05
    ability: float | None = None
    alpha: list[float] = field(default_factory=list)
    beta: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alpha = [self.prior[0] for _ in self.weak]
        self.beta = [self.prior[1] for _ in self.weak]

    def move_ability(self, counts: dict[int, float], successes: dict[int, float]) -> None:
        known = [k for k in counts if not math.isnan(self.weak[k]) and not math.isnan(self.strong[k])]
        if not known:
            return
        pass_rate = sum(successes[k] / counts[k] for k in known) / len(known)
        weak = sum(self.weak[k] for k in known) / len(known)
        strong = sum(self.strong[k] for k in known) / len(known)
        if abs(strong - weak) < self.min_gap:
            return
        mu = (pass_rate - weak) / (strong - weak)
        self.ability = mu if self.ability is None else self.momentum * self.ability + (1 - self.momentum) * mu

    def observe(self, rows: list[Row]) -> None:
        counts: dict[int, float] = {}
        successes: dict[int, float] = {}
        for task, count, success in rows:
            if count > 0:
                counts[task] = counts.get(task, 0.0) + count
                successes[task] = successes.get(task, 0.0) + success
        if not counts:
            return
        self.move_ability(counts, successes)
        rollouts = sum(counts.values()) / len(counts)
        lam, rho = self.forgetting, self.implicit_weight
        for k in range(len(self.weak)):
            predictable = not math.isnan(self.weak[k]) and not math.isnan(self.strong[k])
            if k in counts:
                s = pseudo_s = successes[k]
                f = pseudo_f = counts[k] - successes[k]
            elif self.ability is not None and predictable:
                p = min(max(self.weak[k] + self.ability * (self.strong[k] - self.weak[k]), 0.0), 1.0)
                s = f = 0.0
                pseudo_s, pseudo_f = rollouts * p, rollouts * (1 - p)
            else:
                s = f = pseudo_s = pseudo_f = 0.0
            self.alpha[k] = (1 - lam) * self.alpha[k] + lam * self.prior[0] + (1 - rho) * s + rho * pseudo_s
            self.beta[k] = (1 - lam) * self.beta[k] + lam * self.prior[1] + (1 - rho) * f + rho * pseudo_f


def random_rows(rng: np.random.Generator, num_tasks: int) -> list[Row]:
    """Duplicates, tasks without rollouts, whole and fractional successes, other counts for every row."""
    rows: list[Row] = []
    for _ in range(int(rng.integers(1, 6))):
        count = int(rng.integers(0, 9))
        successes = float(rng.integers(0, count + 1)) if rng.random() < 0.5 else count * float(rng.random())
        rows.append((int(rng.integers(num_tasks)), float(count), successes))
    return rows


@pytest.mark.parametrize(
    ("forgetting", "implicit_weight", "prior"),
    [
        (0.1, 0.1, (1.0, 1.0)),
        (0.1, 0.0, (1.0, 1.0)),  # direct evidence only
        (1.0, 1.0, (1.0, 1.0)),  # predictions only
        (0.0, 0.3, (1.0, 1.0)),  # nothing is forgotten
        (0.0, 0.0, (0.5, 0.5)),
        (0.35, 0.7, (0.5, 2.5)),
        (1.0, 0.2, (3.0, 1.5)),
    ],
)
def test_many_steps_agree_with_brute_force(
    forgetting: float, implicit_weight: float, prior: tuple[float, float]
) -> None:
    rng = np.random.default_rng(7)
    weak, strong = rng.random(12), rng.random(12)
    weak[[0, 1, 2]], strong[[2, 3]] = NAN, NAN
    weak[4] = strong[4]
    belief = belief_of(forgetting, implicit_weight, prior, weak.tolist(), strong.tolist())
    reference = BruteForce(forgetting, implicit_weight, prior, weak.tolist(), strong.tolist())
    for _ in range(150):
        rows = random_rows(rng, 12)
        belief.observe(evidence_of(rows))
        reference.observe(rows)
        np.testing.assert_allclose(belief.alpha, reference.alpha, rtol=1e-11)
        np.testing.assert_allclose(belief.beta, reference.beta, rtol=1e-11)
    assert reference.ability is not None  # the predictions were used


@pytest.mark.parametrize("forgetting", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("implicit_weight", [0.0, 0.4, 1.0])
def test_without_an_implicit_predictor_its_weight_is_irrelevant(forgetting: float, implicit_weight: float) -> None:
    rng = np.random.default_rng(3)
    belief = BetaBelief(forgetting, implicit_weight)
    belief.setup(TaskFeatures(6))
    reference = BruteForce(forgetting, 0.0, (1.0, 1.0), [NAN] * 6, [NAN] * 6)
    for _ in range(50):
        rows = random_rows(rng, 6)
        belief.observe(evidence_of(rows))
        reference.observe(rows)
        np.testing.assert_allclose(belief.alpha, reference.alpha, rtol=1e-11)
        np.testing.assert_allclose(belief.beta, reference.beta, rtol=1e-11)


def test_two_updates_by_hand() -> None:
    belief = belief_of(forgetting=0.1, implicit_weight=0.2, weak=[0.2, 0.4, 0.1, NAN], strong=[0.6, 0.8, 0.5, 0.9])
    # Pass rates 2/8 and 6/8, mean 0.5; references 0.3 and 0.7 on average: the policy stands halfway.
    belief.observe(evidence_of([(0, 8, 2), (1, 8, 6)]))
    np.testing.assert_allclose(belief.alpha, [1 + 2, 1 + 6, 1 + 0.2 * 8 * 0.3, 1], rtol=1e-14)
    np.testing.assert_allclose(belief.beta, [1 + 6, 1 + 2, 1 + 0.2 * 8 * 0.7, 1], rtol=1e-14)
    # Pass rate 1 against 0.1 and 0.5: 0.9 / 0.4 = 2.25, smoothed 0.9 * 0.5 + 0.1 * 2.25 = 0.675.
    belief.observe(evidence_of([(2, 4, 4)]))
    first, second = 0.2 + 0.675 * 0.4, 0.4 + 0.675 * 0.4
    np.testing.assert_allclose(
        belief.alpha,
        [
            0.9 * 3 + 0.1 + 0.2 * 4 * first,
            0.9 * 7 + 0.1 + 0.2 * 4 * second,
            0.9 * (1 + 0.2 * 8 * 0.3) + 0.1 + 4,
            0.9 * 1 + 0.1,
        ],
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        belief.beta,
        [
            0.9 * 7 + 0.1 + 0.2 * 4 * (1 - first),
            0.9 * 3 + 0.1 + 0.2 * 4 * (1 - second),
            0.9 * (1 + 0.2 * 8 * 0.7) + 0.1 + 0,
            0.9 * 1 + 0.1,
        ],
        rtol=1e-14,
    )


def test_only_predictions_means_that_the_mean_of_an_untried_task_is_set_by_the_last_step() -> None:
    belief = belief_of(forgetting=1.0, implicit_weight=1.0)
    for _ in range(3):
        belief.observe(evidence_of([(0, 8, 3)]))  # ability (3/8 - 0.2) / 0.4 = 0.4375
    predicted = 0.4 + 0.4375 * 0.4
    assert belief.alpha[1] == pytest.approx(1 + 8 * predicted)
    assert belief.mean()[1] == pytest.approx((1 + 8 * predicted) / (2 + 8))


def test_every_task_counts_its_own_rollouts_and_predictions_their_mean() -> None:
    belief = belief_of(forgetting=0.0, implicit_weight=0.5)
    belief.observe(evidence_of([(0, 4, 1), (1, 12, 6)]))
    evidence = belief.alpha + belief.beta - 2
    mean = 0.5 * (4 + 12) / 2
    np.testing.assert_allclose(evidence, [4, 12, mean, 0, 0, 0, mean, mean])


@pytest.mark.parametrize(("implicit_weight", "forgetting"), [(0.1, 0.1), (0.4, 0.25), (1.0, 0.5)])
def test_steady_state_evidence(implicit_weight: float, forgetting: float) -> None:
    """Beyond the prior: G/λ for a task visited at every step, ρG/λ for one never visited, others in between."""
    rng = np.random.default_rng(0)
    rollouts, lowest, highest = 8, implicit_weight * 8 / forgetting, 8 / forgetting
    belief = belief_of(forgetting, implicit_weight)
    for step in range(400):
        now_and_then = [6] if step % 3 == 0 else []
        rows: list[Row] = [(k, rollouts, float(rng.integers(rollouts + 1))) for k in [0, *now_and_then]]
        belief.observe(evidence_of(rows))
    evidence = belief.alpha + belief.beta - 2
    assert evidence[0] == pytest.approx(highest)
    assert evidence[1] == pytest.approx(lowest)
    assert lowest - 1e-9 <= evidence[6] <= highest + 1e-9
    if implicit_weight < 1:
        assert lowest < evidence[6] < highest
    np.testing.assert_allclose(evidence[UNPREDICTED], 0, atol=1e-12)


rows = st.lists(
    st.tuples(st.integers(0, len(WEAK) - 1), st.integers(0, 16), st.floats(0, 1)).map(
        lambda row: (row[0], float(row[1]), row[1] * row[2])
    ),
    max_size=8,
)
rates = st.floats(0, 1)
priors = st.tuples(st.floats(0.01, 10), st.floats(0.01, 10))


@given(rates, rates, priors, st.lists(rows, max_size=10))
def test_posteriors_stay_proper(
    forgetting: float, implicit_weight: float, prior: tuple[float, float], steps: list[list[Row]]
) -> None:
    belief = belief_of(forgetting, implicit_weight, prior)
    for step in steps:
        belief.observe(evidence_of(step))
        assert np.isfinite(belief.alpha).all()
        assert np.isfinite(belief.beta).all()
        assert (belief.alpha > 0).all()
        assert (belief.beta > 0).all()
        assert ((belief.mean() > 0) & (belief.mean() < 1)).all()


@given(st.data(), rates, rates, rows, rows)
def test_the_order_of_a_batch_is_irrelevant_to_the_bit(
    data: st.DataObject, forgetting: float, implicit_weight: float, first: list[Row], second: list[Row]
) -> None:
    straight, permuted = belief_of(forgetting, implicit_weight), belief_of(forgetting, implicit_weight)
    for step in (first, second):
        straight.observe(evidence_of(step))
        permuted.observe(evidence_of(data.draw(st.permutations(step))))
    np.testing.assert_array_equal(permuted.alpha, straight.alpha)
    np.testing.assert_array_equal(permuted.beta, straight.beta)
    assert permuted.implicit is not None
    assert straight.implicit is not None
    assert permuted.implicit.ability == straight.implicit.ability


@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 8), st.integers(0, 8))
def test_rows_of_one_task_add_up_in_full(count: int, successes: int, other_count: int, other_successes: int) -> None:
    successes, other_successes = min(successes, count), min(other_successes, other_count)
    belief = belief_of(implicit_weight=0.0)
    belief.observe(evidence_of([(2, count, successes), (0, 8, 4), (2, other_count, other_successes)]))
    assert belief.alpha[2] == pytest.approx(1 + successes + other_successes)
    assert belief.beta[2] == pytest.approx(1 + (count - successes) + (other_count - other_successes))


@given(rates, rates, priors, st.lists(rows, max_size=6))
def test_a_task_without_a_prediction_only_learns_from_its_own_rollouts(
    forgetting: float, implicit_weight: float, prior: tuple[float, float], steps: list[list[Row]]
) -> None:
    """The rest is forgetting: α ← (1−λ) α + λ α0, and never NaN."""
    belief = belief_of(forgetting, implicit_weight, prior)
    for step in steps:
        alpha, beta = belief.alpha.copy(), belief.beta.copy()
        belief.observe(evidence_of(step))
        rollouts = {task for task, count, _ in step if count > 0}
        for k in UNPREDICTED if rollouts else []:
            own = [(count, successes) for task, count, successes in step if task == k]
            successes = math.fsum(successes for _, successes in own)
            failures = math.fsum(count - successes for count, successes in own)
            remembered = (1 - forgetting) * alpha[k] + forgetting * prior[0]
            assert belief.alpha[k] == pytest.approx(remembered + successes, rel=1e-12)
            remembered = (1 - forgetting) * beta[k] + forgetting * prior[1]
            assert belief.beta[k] == pytest.approx(remembered + failures, rel=1e-12)


@given(st.lists(rows, max_size=6))
def test_a_step_without_rollouts_is_no_step(steps: list[list[Row]]) -> None:
    with_gaps, without = belief_of(), belief_of()
    for step in steps:
        for belief in (with_gaps, without):
            belief.observe(evidence_of(step))
        with_gaps.observe(evidence_of([]))
        with_gaps.observe(evidence_of([(0, 0.0, 0.0)]))
    np.testing.assert_array_equal(with_gaps.alpha, without.alpha)
    np.testing.assert_array_equal(with_gaps.beta, without.beta)


def test_equal_references_on_a_batch_keep_the_ability() -> None:
    belief = belief_of()
    assert belief.implicit is not None
    belief.observe(evidence_of([(6, 8, 8)]))  # both references of task 6 are 0.5: nothing is known yet
    assert belief.implicit.ability is None
    np.testing.assert_array_equal(np.delete(belief.alpha, 6), 1.0)
    belief.observe(evidence_of([(0, 8, 3)]))
    before = belief.implicit.ability
    belief.observe(evidence_of([(6, 8, 8)]))
    assert before is not None
    assert belief.implicit.ability == before
    assert np.isfinite(belief.alpha).all()


def test_a_task_outside_the_pool_changes_nothing() -> None:
    belief = belief_of()
    assert belief.implicit is not None
    with pytest.raises((IndexError, ValueError), match=str(len(WEAK))):
        belief.observe(evidence_of([(0, 8, 4), (len(WEAK), 8, 4)]))
    np.testing.assert_array_equal(belief.alpha, 1.0)
    assert belief.implicit.ability is None


def test_draws_are_those_of_the_beta_distribution() -> None:
    belief = belief_of()
    belief.observe(evidence_of([(0, 8, 2), (1, 8, 8)]))
    draws = belief.sample(np.random.default_rng(5))
    np.testing.assert_array_equal(draws, np.random.default_rng(5).beta(belief.alpha, belief.beta))
    many = np.stack([belief.sample(rng) for rng in [np.random.default_rng(6)] for _ in range(4000)])
    np.testing.assert_allclose(many.mean(axis=0), belief.mean(), atol=0.02)


def test_metrics_by_hand() -> None:
    belief = belief_of(weak=[0.2, NAN], strong=[0.6, NAN], prior=(1.0, 3.0))
    assert belief.metrics() == {"belief/mean_pass_rate": 0.25, "belief/evidence": 0.0}
    belief.observe(evidence_of([(0, 8, 4)]))
    assert belief.metrics() == pytest.approx(
        {
            "belief/mean_pass_rate": ((1 + 4) / (4 + 8) + 1 / 4) / 2,
            "belief/evidence": (8 + 0) / 2,
            "belief/relative_ability": (0.5 - 0.2) / (0.6 - 0.2),
        }
    )


@pytest.mark.parametrize("with_references", [True, False])
def test_a_restored_belief_goes_on_as_the_saved_one(with_references: bool) -> None:
    def fresh() -> BetaBelief:
        belief = belief_of() if with_references else BetaBelief()
        belief.setup(features_of(WEAK, STRONG))
        return belief

    steps = np.random.default_rng(11)
    original, restored = fresh(), fresh()
    for _ in range(5):
        original.observe(evidence_of(random_rows(steps, len(WEAK))))
    state = original.state_dict()
    restored.load_state_dict(state)
    implicit = state.get("implicit", {"pseudo_counts": {}})["pseudo_counts"].values()
    for values in (state["successes"], state["failures"], state["reward_dispersion"]["sums"], *implicit):
        values[:] = NAN  # the state is a copy on its way out and on its way in
    rngs = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(10):
        rows = random_rows(steps, len(WEAK))
        for belief in (original, restored):
            belief.observe(evidence_of(rows))
        np.testing.assert_array_equal(restored.sample(rngs[1]), original.sample(rngs[0]))


def test_setup_returns_to_the_prior() -> None:
    belief = belief_of(prior=(2.0, 5.0))
    belief.observe(evidence_of([(0, 8, 4)]))
    belief.setup(features_of(WEAK, STRONG))
    np.testing.assert_array_equal(belief.alpha, 2.0)
    np.testing.assert_array_equal(belief.beta, 5.0)
    belief.observe(evidence_of([(3, 8, 4)]))  # no reference: the old ability would predict for the others
    assert belief.alpha[0] == pytest.approx(2.0)


@pytest.mark.parametrize("value", [-0.01, 1.01, NAN])
@pytest.mark.parametrize("name", ["forgetting", "implicit_weight"])
def test_impossible_rates_are_refused(name: str, value: float) -> None:
    rates = {"forgetting": 0.1, "implicit_weight": 0.1} | {name: value}
    with pytest.raises(ValueError, match=rf"{name}={value}; expected at least 0 and at most 1"):
        BetaBelief(rates["forgetting"], rates["implicit_weight"])


@pytest.mark.parametrize("prior", [(0.0, 1.0), (1.0, -1.0), (1.0, NAN), (math.inf, 1.0), (1.0, 1.0, 1.0)])
def test_an_improper_prior_is_refused(prior: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"prior=\(.*\); expected two finite positive numbers"):
        BetaBelief(prior=prior)


def test_a_state_with_a_predictor_is_refused_by_a_belief_without_one_and_the_reverse() -> None:
    features = TaskFeatures(2, {"w": np.array([0.2, 0.5]), "u": np.array([0.6, 0.9])})
    alone, predicting = BetaBelief(), BetaBelief(implicit=ReferenceInterpolation("w", "u"))
    alone.setup(features)
    predicting.setup(features)
    with pytest.raises(ValueError, match="the saved belief has an implicit predictor, this one has none"):
        alone.load_state_dict(predicting.state_dict())
    with pytest.raises(ValueError, match="the saved belief has no implicit predictor, this one has one"):
        predicting.load_state_dict(alone.state_dict())


@pytest.mark.parametrize("rates", [[0.1, 37.5], [0.1, math.inf], [-0.1, 0.1], [0.1]])
def test_references_that_are_no_pass_rates_of_every_task_are_refused(rates: list[float]) -> None:
    with pytest.raises(ValueError, match=r"reference 'w' (holds|has shape)"):
        TaskFeatures(2, {"w": np.array(rates)})
