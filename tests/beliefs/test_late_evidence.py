"""Evidence of an earlier policy: what it still contributes to the belief about the current one."""

from __future__ import annotations

import numpy as np
import pytest

from bots_lightning.beliefs import (
    AbilityBelief,
    AdaptiveBetaBelief,
    Belief,
    BetaBelief,
    Evidence,
    ReferenceInterpolation,
    TaskFeatures,
    VisitedBetaBelief,
)

RATES = {"weak": np.array([0.1, 0.2, 0.3, 0.4, 0.5]), "strong": np.array([0.5, 0.7, 0.8, 0.9, 0.9])}
FEATURES = TaskFeatures(5, references=RATES)
EARLY = np.array([0, 1])  # the tasks whose evidence comes late, or in time
OTHER = np.array([2, 3])


def of(tasks: np.ndarray, successes: list[float], age: float = 0.0) -> Evidence:
    return Evidence(tasks, np.array(successes), np.full(len(tasks), 8.0), ages=np.full(len(tasks), age))


def started(belief: Belief) -> Belief:
    belief.setup(FEATURES)
    return belief


@pytest.mark.parametrize("forgetting", [0.0, 0.1, 1.0])
def test_beta_counts_late_evidence_as_if_it_had_come_in_time(forgetting: float) -> None:
    in_time, late = (started(BetaBelief(forgetting)) for _ in range(2))
    in_time.observe(of(EARLY, [8.0, 3.0]))
    in_time.observe(of(OTHER, [1.0, 2.0]))
    late.observe(of(OTHER, [1.0, 2.0]))
    late.observe(of(EARLY, [8.0, 3.0], age=1))
    for mine, theirs in zip(late.concentrations(EARLY), in_time.concentrations(EARLY), strict=True):  # type: ignore[arg-type]
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_beta_discounts_what_is_inferred_for_other_tasks_too() -> None:
    implicit = ReferenceInterpolation("weak", "strong")
    fresh, late = (started(BetaBelief(0.1, 0.2, implicit=ReferenceInterpolation("weak", "strong"))) for _ in range(2))
    fresh.observe(of(EARLY, [4.0, 3.0]))
    late.observe(of(EARLY, [4.0, 3.0], age=2))
    untried = np.array([4])
    implicit.setup(FEATURES)
    implicit.observe(of(EARLY, [4.0, 3.0]))
    for weight, belief in ((1.0, fresh), (0.9**2, late)):
        alpha, beta = belief.concentrations(untried)  # type: ignore[misc]
        predicted = implicit.predict(untried)
        np.testing.assert_allclose(alpha, 1 + 0.2 * 8 * weight * predicted, rtol=1e-12)
        np.testing.assert_allclose(beta, 1 + 0.2 * 8 * weight * (1 - predicted), rtol=1e-12)


def test_where_the_policy_stands_is_read_off_evidence_that_is_wholly_forgotten() -> None:
    belief = started(BetaBelief(1.0, 0.2, implicit=ReferenceInterpolation("weak", "strong")))
    unweighted = ReferenceInterpolation("weak", "strong")
    unweighted.setup(FEATURES)
    for tasks, successes, age in ((EARLY, [4.0, 3.0], 1), (OTHER, [6.0, 5.0], 0), (EARLY, [7.0, 8.0], 2)):
        belief.observe(of(tasks, successes, age))
        unweighted.observe(of(tasks, successes))
        assert belief.implicit.ability == unweighted.ability  # type: ignore[attr-defined]
        expected = np.ones((2, 5))
        if age == 0:  # counted: 1 − ρ of the rollouts and ρ of the prediction; predicted: ρ of 8 rollouts
            predicted = unweighted.predict()
            expected += 0.2 * 8 * np.stack([predicted, 1 - predicted])
            expected[:, OTHER] = 1 + np.array([successes, [2.0, 3.0]])
        np.testing.assert_allclose(belief.concentrations(), expected, rtol=1e-12)


def visited(belief: AbilityBelief, others: int = 0) -> AbilityBelief:
    """A belief after a visit to every task, and further visits to some."""
    started(belief).observe(of(np.arange(5), [2.0, 5.0, 4.0, 7.0, 6.0]))
    for _ in range(others):
        belief.observe(of(OTHER, [4.0, 7.0]))
    return belief


@pytest.mark.parametrize("task_drift", [0.003, 0.1])
def test_ability_counts_late_evidence_as_if_it_had_come_in_time(task_drift: float) -> None:
    in_time, late = (visited(AbilityBelief(task_drift=task_drift, ability_drift=0.0), others=1) for _ in range(2))
    in_time.observe(of(EARLY, [8.0, 3.0]))
    in_time.observe(of(OTHER, [1.0, 2.0]))
    late.observe(of(OTHER, [1.0, 2.0]))
    late.observe(of(EARLY, [8.0, 3.0], age=1))
    for mine, theirs in zip(late.predict(EARLY), in_time.predict(EARLY), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-10)


def test_the_older_the_evidence_the_less_it_moves_and_settles_ability() -> None:
    means, variances, abilities = [], [], []
    for age in (0, 1, 5, 50):
        belief = visited(AbilityBelief(), others=60)
        belief.observe(of(EARLY, [8.0, 8.0], age))
        mean, variance = belief.predict(EARLY)
        means.append(mean)
        variances.append(variance)
        abilities.append([belief.ability.mean[0], -belief.ability.variance[0]])
    assert (np.diff(means, axis=0) < 0).all()
    assert (np.diff(variances, axis=0) > 0).all()
    assert (np.diff(abilities, axis=0) < 0).all()


def test_no_more_than_the_drift_since_the_last_visit_is_taken_from_a_variance() -> None:
    visited_before = [visited(AbilityBelief(task_drift=0.5, ability_drift=0.0)) for _ in range(2)]
    settled = visited_before[0].variance[EARLY]
    assert (settled + 0.5 - 3 * 0.5 < 0).all()  # what three steps of drift would leave
    for belief, age in zip(visited_before, (1, 3), strict=True):
        belief.observe(of(EARLY, [8.0, 3.0], age))
    np.testing.assert_array_equal(visited_before[1].predict(), visited_before[0].predict())
    assert (visited_before[1].variance[EARLY] > 0.5).all()  # the drift since then is back
    assert (visited_before[1].variance[EARLY] < settled + 0.5).all()


def test_first_visits_count_in_full_whatever_their_age() -> None:
    fresh, late = (started(AbilityBelief(task_drift=0.1, ability_drift=0.0)) for _ in range(2))
    fresh.observe(of(EARLY, [8.0, 3.0]))
    late.observe(of(EARLY, [8.0, 3.0], age=2))
    np.testing.assert_array_equal(late.predict(), fresh.predict())


def test_a_group_moves_as_when_its_oldest_evidence_was_sampled() -> None:
    features = TaskFeatures(5, references=RATES, groups=np.array(["a", "a", "a", "b", "b"]))
    late, surer = (AbilityBelief(ability_drift=0.1) for _ in range(2))
    for belief in (late, surer):
        belief.setup(features)
    surer.ability.variance[0] -= 3 * 0.1  # of group a; what its walk adds in three steps
    tasks, successes, counts = np.array([0, 1, 3]), np.array([8.0, 3.0, 1.0]), np.full(3, 8.0)
    late.observe(Evidence(tasks, successes, counts, ages=np.array([1.0, 3.0, 0.0])))
    surer.observe(Evidence(tasks, successes, counts))
    np.testing.assert_allclose(late.ability.mean, surer.ability.mean, rtol=1e-12)
    np.testing.assert_allclose(late.ability.variance, surer.ability.variance + np.array([0.3, 0]), rtol=1e-12)


def test_a_group_of_known_ability_is_not_moved_by_evidence_older_than_its_walk() -> None:
    belief = started(AbilityBelief(ability_drift=0.1))  # a single group: its variance is 0 at first, now 0.1
    belief.observe(of(EARLY, [8.0, 8.0], age=3))
    assert belief.ability.mean[0] == 0  # type: ignore[attr-defined]
    assert belief.ability.variance[0] == 0.1  # type: ignore[attr-defined]


def test_beliefs_that_do_not_forget_by_the_step_do_not_discount() -> None:
    for build in (VisitedBetaBelief, lambda: BetaBelief(forgetting=0.0)):
        fresh, late = started(build()), started(build())
        fresh.observe(of(EARLY, [8.0, 3.0]))
        late.observe(of(EARLY, [8.0, 3.0], age=7))
        np.testing.assert_array_equal(late.concentrations(), fresh.concentrations())


def test_every_member_of_an_adaptive_belief_discounts_by_its_own_forgetting() -> None:
    adaptive = started(AdaptiveBetaBelief(forgetting=(0.1, 0.5), implicit_weight=(0.0,)))
    adaptive.observe(of(EARLY, [8.0, 3.0], age=1))
    for member, kept in zip(adaptive.members, (0.9, 0.5), strict=True):  # type: ignore[attr-defined]
        np.testing.assert_allclose(member.concentrations(EARLY)[0], 1 + kept * np.array([8.0, 3.0]), rtol=1e-12)
