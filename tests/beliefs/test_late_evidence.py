"""Evidence of an earlier policy: what it still says of the present one."""

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


def test_ability_takes_the_drift_since_from_the_information() -> None:
    late, by_hand = (started(AbilityBelief(task_drift=0.02, ability_drift=0.01)) for _ in range(2))
    alpha, beta = late.concentrations(EARLY)  # type: ignore[misc]
    rate = alpha / (alpha + beta)
    information = 8 * rate * (1 - rate)
    weight = 1 / (1 + information * 2 * (0.02 + 0.01))
    assert (weight < 0.96).all()
    late.observe(of(EARLY, [8.0, 3.0], age=2))
    by_hand.observe(Evidence(EARLY, np.array([8.0, 3.0]) * weight, 8 * weight))
    for mine, theirs in zip(late.concentrations(), by_hand.concentrations(), strict=True):  # type: ignore[arg-type]
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_the_older_the_evidence_the_less_it_moves_and_settles_ability() -> None:
    means, weights = [], []
    for age in (0, 1, 5, 50):
        belief = started(AbilityBelief())
        belief.observe(of(EARLY, [8.0, 8.0], age))
        alpha, beta = belief.concentrations(EARLY)  # type: ignore[misc]
        means.append((alpha / (alpha + beta)).tolist())
        weights.append(belief.predict(EARLY)[1].tolist())  # type: ignore[attr-defined]
    assert means == sorted(means, reverse=True)
    assert weights == sorted(weights)
    assert len({tuple(mean) for mean in means}) == 4


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
