# Shapes: N tasks in the pool, B rows in the step, G rollouts per task.

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import BetaBelief, Evidence, TaskFeatures, VisitedBetaBelief
from bots_lightning.selection import ThompsonSelector

NAN = float("nan")
TASKS = 6
# (task, count, successes): one row of evidence.
Row = tuple[int, float, float]
rows = st.lists(
    st.tuples(st.integers(0, TASKS - 1), st.integers(0, 16), st.floats(0, 1)).map(
        lambda row: (row[0], float(row[1]), row[1] * row[2])
    ),
    max_size=8,
)
priors = st.tuples(st.floats(0.01, 10), st.floats(0.01, 10))


def belief_of(decay: float = 0.5, prior: tuple[float, float] = (1.0, 1.0)) -> VisitedBetaBelief:
    belief = VisitedBetaBelief(decay, prior)
    belief.setup(TaskFeatures(TASKS))
    return belief


def evidence_of(rows: list[Row]) -> Evidence:
    tasks, counts, successes = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Evidence(tasks.astype(np.int64), successes, counts)


def test_two_visits_by_hand() -> None:
    belief = belief_of(prior=(1.0, 3.0))
    belief.observe(evidence_of([(0, 8, 6), (2, 8, 0)]))
    belief.observe(evidence_of([(0, 4, 1)]))
    first = 0.5 * 1 + 0.5 * 1 + 6, 0.5 * 3 + 0.5 * 3 + 2  # at the prior a visit forgets nothing
    alpha = [0.5 * first[0] + 0.5 * 1 + 1, 1, 1, 1, 1, 1]
    beta = [0.5 * first[1] + 0.5 * 3 + 3, 3, 3 + 8, 3, 3, 3]
    np.testing.assert_array_equal(belief.concentrations(), (alpha, beta))
    np.testing.assert_array_equal(belief.mean(), np.array(alpha) / (np.array(alpha) + np.array(beta)))
    assert belief.metrics() == pytest.approx(
        {"belief/mean_pass_rate": belief.mean().mean(), "belief/evidence": (8 / 2 + 4 + 8) / TASKS}
    )


@given(st.floats(0, 1), priors, st.lists(rows, max_size=8))
def test_every_posterior_is_that_of_a_brute_force_loop(
    decay: float, prior: tuple[float, float], steps: list[list[Row]]
) -> None:
    belief = belief_of(decay, prior)
    alpha, beta = [prior[0]] * TASKS, [prior[1]] * TASKS
    for step in steps:
        belief.observe(evidence_of(step))
        for task in {task for task, count, _ in step if count > 0}:
            own = [(count, successes) for other, count, successes in step if other == task]
            successes = math.fsum(successes for _, successes in own)
            failures = math.fsum(count - successes for count, successes in own)
            alpha[task] = decay * alpha[task] + (1 - decay) * prior[0] + successes
            beta[task] = decay * beta[task] + (1 - decay) * prior[1] + failures
        np.testing.assert_allclose(belief.alpha, alpha, rtol=1e-12)
        np.testing.assert_allclose(belief.beta, beta, rtol=1e-9, atol=1e-12)


@given(st.floats(0, 1), st.lists(rows, max_size=6))
def test_if_every_task_is_tried_at_every_step_it_is_the_belief_of_bots_without_predictions(
    decay: float, steps: list[list[Row]]
) -> None:
    visited, everywhere = belief_of(decay), BetaBelief(forgetting=1 - decay, implicit_weight=0.0)
    everywhere.setup(TaskFeatures(TASKS))
    for step in steps:
        evidence = evidence_of([*step, *((task, 4.0, 1.0) for task in range(TASKS))])
        visited.observe(evidence)
        everywhere.observe(evidence)
    np.testing.assert_array_equal(visited.concentrations(), everywhere.concentrations())


@given(st.data(), rows)
def test_the_order_of_a_batch_is_irrelevant_to_the_bit(data: st.DataObject, step: list[Row]) -> None:
    straight, permuted = belief_of(), belief_of()
    straight.observe(evidence_of(step))
    permuted.observe(evidence_of(data.draw(st.permutations(step))))
    np.testing.assert_array_equal(permuted.concentrations(), straight.concentrations())


def test_a_task_outside_the_pool_changes_nothing() -> None:
    belief = belief_of()
    with pytest.raises(IndexError, match=str(TASKS)):
        belief.observe(evidence_of([(0, 8, 4), (TASKS, 8, 4)]))
    np.testing.assert_array_equal(belief.concentrations(), np.ones((2, TASKS)))


def test_selection_is_that_of_a_brute_force_mopps() -> None:
    """Twelve steps of Thompson draws, nearest to 0.5, and updates of the chosen tasks, on plain numbers."""
    selector, rng, outcomes = ThompsonSelector(VisitedBetaBelief()), np.random.default_rng(4), np.random.default_rng(5)
    selector.setup(TaskFeatures(20), seed=4)
    alpha, beta = [1.0] * 20, [1.0] * 20
    for _ in range(12):
        distance = [abs(draw - 0.5) for draw in rng.beta(alpha, beta)]
        expected = sorted(range(20), key=lambda task: distance[task])[:5]
        batch = selector.select(5)
        assert batch.tolist() == expected
        successes = outcomes.binomial(8, batch / 20)
        selector.observe(Evidence(batch, successes.astype(np.float64), np.full(5, 8.0)))
        for task, count in zip(expected, successes.tolist(), strict=True):
            alpha[task] = 0.5 * alpha[task] + 0.5 + count
            beta[task] = 0.5 * beta[task] + 0.5 + 8 - count


def test_a_restored_belief_goes_on_as_the_saved_one() -> None:
    original, restored = belief_of(), belief_of()
    original.observe(evidence_of([(0, 8, 6), (3, 8, 1)]))
    restored.observe(evidence_of([(5, 8, 8)]))
    state = original.state_dict()
    restored.load_state_dict(state)
    for values in (state["successes"], state["failures"], state["reward_dispersion"]["sums"]):
        values[:] = NAN  # the state is a copy on its way out and on its way in
    rngs = np.random.default_rng(1), np.random.default_rng(1)
    for task in [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]:
        for belief in (original, restored):
            belief.observe(evidence_of([(task, 8, task)]))
        np.testing.assert_array_equal(restored.sample(rngs[1]), original.sample(rngs[0]))


@pytest.mark.parametrize("decay", [-0.01, 1.01, NAN])
def test_an_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay={decay}; expected at least 0 and at most 1"):
        VisitedBetaBelief(decay)


@pytest.mark.parametrize("prior", [(0.0, 1.0), (1.0, -1.0), (1.0, NAN), (math.inf, 1.0), (1.0, 1.0, 1.0)])
def test_an_improper_prior_is_refused(prior: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"prior=\(.*\); expected two finite positive numbers"):
        VisitedBetaBelief(prior=prior)
