# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bots_lightning.beliefs import AbilityBelief, BetaBelief, Evidence, TaskFeatures
from bots_lightning.beliefs.logit_beta import logit_moments, match_beta
from bots_lightning.selection import FairShareSelector, SelectionRules
from bots_lightning.selection.informative import mixed_probability

NAN = float("nan")


def selector_of(
    n: int, seed: int = 0, references: dict[str, np.ndarray] | None = None, **options: float | None
) -> FairShareSelector:
    selector = FairShareSelector(AbilityBelief(), **options)  # type: ignore[arg-type]
    selector.setup(TaskFeatures(n, references or {}), seed)
    return selector


def outcome(batch: np.ndarray, step: int) -> Evidence:
    return Evidence(batch, (5 * batch + 3 * step) % 9, np.full(len(batch), 8.0))


def test_the_most_due_tasks_are_chosen() -> None:
    selector = selector_of(40, references={"a": np.linspace(0, 1, 40)}, hold=None)
    for step in range(30):
        alpha, beta = selector.belief.concentrations()
        mean, deviation = mixed_probability(alpha, beta, 16)
        key = np.log(selector.turns) - (mean + 0.5 * deviation) / selector.temperature
        batch = selector.select(5)
        last_in, first_out = key[batch].max(), np.delete(key, batch).min()
        assert last_in <= first_out + 0.2  # the table rounds U by up to 0.01, keys by twice that over τ
        selector.observe(outcome(batch, step))


def test_counts_keep_to_the_shares() -> None:
    """With weights that do not change, c_k ∝ exp(U_k/τ): counts of weights 1 and e² differ by 7.4 within a turn."""
    selector = selector_of(30)
    log_weight = np.repeat([0.0, 1.0, 2.0], 10)
    selector.belief.cells = lambda where: np.repeat([0, 1, 2], 10)[where]  # type: ignore[method-assign]
    selector._table = np.array([0.0, 1.0, 2.0], dtype=np.float32)
    counts = Counter[int]()
    for _ in range(900):
        counts.update(selector.select(5).tolist())
    share = np.exp(log_weight) / np.exp(log_weight).sum()
    np.testing.assert_allclose([counts[k] for k in range(30)], 4500 * share, atol=1.5)


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_no_task_twice_and_every_task_gets_its_turn(batch_size: int) -> None:
    """Also those that are never solved and those that always are."""
    selector, seen = selector_of(20, references={"a": np.linspace(0, 1, 20)}, temperature=0.3), set[int]()
    for _ in range(1200 // batch_size):
        batch = selector.select(batch_size)
        assert len(set(batch.tolist())) == batch_size
        seen |= set(batch.tolist())
        successes = np.where(batch < 7, 0.0, np.where(batch < 14, 4.0, 8.0))
        selector.observe(Evidence(batch, successes, np.full(batch_size, 8.0)))
    assert seen == set(range(20))


def test_without_hold_tasks_with_mixed_groups_are_selected_more_often() -> None:
    selector, counts = selector_of(60, hold=None), np.zeros(60)
    for _ in range(60):
        batch = selector.select(6)
        counts[batch] += 1
        selector.observe(Evidence(batch, np.where(batch < 20, 0.0, np.where(batch < 40, 4.0, 8.0)), np.full(6, 8.0)))
    assert counts[20:40].sum() > 2 * (counts[:20].sum() + counts[40:].sum())


def test_a_selection_without_rollouts_counts_as_a_turn() -> None:
    """Otherwise a task whose rollouts always fail would be selected forever."""
    selector, chosen = selector_of(10), []
    for _ in range(5):
        batch = selector.select(2)
        chosen += batch.tolist()
        selector.observe(Evidence(batch, np.zeros(2), np.zeros(2)))
    assert sorted(chosen) == list(range(10))


@pytest.mark.parametrize("references", [{}, {"a": np.full(50, NAN)}, {"a": np.r_[np.full(20, NAN), np.ones(30)]}])
def test_the_order_of_a_batch_is_irrelevant(references: dict[str, np.ndarray]) -> None:
    one, other = selector_of(50, 3, references), selector_of(50, 3, references)
    rng = np.random.default_rng(1)
    for step in range(40):
        batch = one.select(8)
        np.testing.assert_array_equal(batch, other.select(8))
        one.observe(outcome(batch, step))
        other.observe(outcome(rng.permutation(batch), step))


def test_a_resumed_selector_makes_the_next_choices_of_the_uninterrupted_one() -> None:
    references = {"a": np.linspace(0, 1, 50)}
    uninterrupted, resumed = selector_of(50, 3, references), selector_of(50, 8, references)
    for step in range(30):
        if step == 20:
            resumed.load_state_dict(uninterrupted.state_dict())
        batch = uninterrupted.select(8)
        uninterrupted.observe(outcome(batch, step))
        if step >= 20:
            np.testing.assert_array_equal(resumed.select(8), batch)
            resumed.observe(outcome(batch, step))
    assert resumed.metrics() == uninterrupted.metrics()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0; expected more than 0"),
        ({"optimism": -1.0}, "optimism=-1.0; expected at least 0"),
        ({"optimism": NAN}, "optimism=nan"),
        ({"hold": -0.5}, "hold=-0.5; expected a finite number, at least 0"),
        ({"floor": 1.5}, "floor=1.5; expected at least 0 and at most 1"),
        ({"first_turn": 0.0}, "first_turn=0.0; expected more than 0 and at most 1"),
        ({"num_generations": 1}, "num_generations=1; rewards of fewer than 2"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FairShareSelector(AbilityBelief(), **options)  # type: ignore[arg-type]


def weights_of(passes: list[float], **options: float | None) -> np.ndarray:
    """Log weights of tasks whose pass rates are known well."""
    belief, defaults = BetaBelief(implicit_weight=0.0, forgetting=0.0), {"optimism": 0.0, "temperature": 0.1}
    selector = FairShareSelector(belief, **defaults | options)  # type: ignore[arg-type]
    selector.setup(TaskFeatures(len(passes)))
    counts = np.full(len(passes), 4000.0)
    selector.observe(Evidence(np.arange(len(passes)), np.array(passes) * counts, counts))
    return np.log(selector.turns) - selector._keys(slice(0, len(passes)))


def test_what_the_policy_can_do_is_held_and_what_is_hopeless_is_not() -> None:
    hard, easy = [0.01, 0.05, 0.2], [0.8, 0.95, 0.99]
    mixed = 1 - np.array(hard) ** 16 - (1 - np.array(hard)) ** 16
    np.testing.assert_allclose(weights_of(hard), (mixed - 1) / 0.1, atol=0.35)
    np.testing.assert_allclose(weights_of(hard, hold=None), weights_of(hard))
    np.testing.assert_allclose(weights_of(easy), 0.0, atol=1e-6)
    np.testing.assert_allclose(weights_of(easy, hold=1.0), np.log(mixed[::-1]), atol=0.06)
    np.testing.assert_allclose(weights_of(easy, hold=None), (mixed[::-1] - 1) / 0.1, atol=0.35)
    assert weights_of([1.0], hold=1.0) == pytest.approx(np.log(0.02), abs=0.01)


def test_no_weight_is_below_the_floor() -> None:
    assert weights_of([0.0], floor=0.05) == pytest.approx(np.log(0.05))
    assert weights_of([0.0]) < np.log(1e-4)


def test_solved_tasks_are_visited_as_often_as_half_solved_ones_and_hopeless_ones_are_not() -> None:
    selector, counts = selector_of(60), np.zeros(60)
    for _ in range(200):
        batch = selector.select(6)
        counts[batch] += 1
        selector.observe(Evidence(batch, np.where(batch < 20, 0.0, np.where(batch < 40, 4.0, 8.0)), np.full(6, 8.0)))
    never, half, always = counts.reshape(3, 20).mean(axis=1)
    assert always == pytest.approx(half, rel=0.05)
    assert never < half / 5


@pytest.mark.parametrize("rollouts", [2, 4, 64])
def test_weights_do_not_depend_on_the_rollouts_per_task(rollouts: int) -> None:
    selector = selector_of(12)
    weights = selector._log_weights.copy()
    selector.observe(Evidence(selector.select(4), np.ones(4), np.full(4, float(rollouts))))
    np.testing.assert_array_equal(selector._log_weights, weights)


def partial_outcome(batch: np.ndarray, step: int) -> Evidence:
    """Rewards in between, fewer and fewer of them at an end of the range."""
    rng = np.random.default_rng([step, *batch.tolist()])
    rewards = rng.random((len(batch), 8))
    rewards = np.where(rng.random((len(batch), 8)) < 4 / (4 + step), rewards.round(), rewards)
    return Evidence.from_rewards(batch, rewards.ravel(), np.full(len(batch), 8))


def test_with_rewards_in_between_a_resumed_selector_goes_on_as_well() -> None:
    """The weights are tabulated anew only now and then; a resume keeps to what they were tabulated for."""
    groups = np.array(["a", "b"])[np.arange(40) % 2]
    uninterrupted, resumed = FairShareSelector(AbilityBelief()), FairShareSelector(AbilityBelief())
    for selector in (uninterrupted, resumed):
        selector.setup(TaskFeatures(40, groups=groups), seed=2)
    between = 0
    for step in range(25):
        resumed.load_state_dict(uninterrupted.state_dict())
        np.testing.assert_array_equal(resumed._table, uninterrupted._table)
        batch = uninterrupted.select(6)
        np.testing.assert_array_equal(resumed.select(6), batch)
        uninterrupted.observe(partial_outcome(batch, step))
        shape = uninterrupted.belief.reward_dispersion
        assert shape is not None
        assert np.abs(uninterrupted._extreme / 64 - shape.extreme_share).max() <= 1 / 128
        between += not np.array_equal(uninterrupted._extreme / 64, shape.extreme_share)
    assert between > 0
    distinct = len(set(uninterrupted._extreme.tolist()))
    assert len(uninterrupted._log_weights) == distinct  # a table for each share, not for each group


def test_the_weights_of_rewards_in_between_are_those_of_their_groups_share_of_extremes() -> None:
    selector = FairShareSelector(AbilityBelief(), temperature=0.2, optimism=0.7, hold=None)
    selector.setup(TaskFeatures(30, groups=np.array(["a", "b", "c"])[np.arange(30) % 3]), seed=2)
    for step in range(10):
        selector.observe(partial_outcome(selector.select(6), step))
    alpha, beta = selector.belief.concentrations()  # type: ignore[misc]
    for task in range(30):
        e = selector._extreme[selector.group_codes[task]] / 64
        mean, deviation = mixed_probability(alpha[[task]], beta[[task]], 16, e)
        expected = np.log(selector.turns[task]) - (mean[0] + 0.7 * deviation[0] - 1) / 0.2
        assert selector._keys(slice(task, task + 1))[0] == pytest.approx(expected, abs=0.15)  # of a rounded cell


def test_tasks_added_later_take_their_share_and_do_not_catch_up() -> None:
    """After 200 turns, ten tasks join ten with the same weight: they get about half of the next 60 turns."""
    selector = selector_of(10, seed=4, temperature=0.12, optimism=0.5, first_turn=0.3)

    def run(steps: int) -> np.ndarray:
        counts = np.zeros(20)
        for _ in range(steps):
            batch = selector.select(4)
            counts[batch] += 1
            selector.observe(Evidence(batch, np.full(4, 4.0), np.full(4, 8.0)))
        return counts

    assert run(50).sum() == 200
    assert selector.turns.min() > 15
    selector.add_tasks(TaskFeatures(20))
    counts = run(40)
    assert 50 <= counts[:10].sum() <= 90
    assert counts.max() <= 14


def test_added_tasks_of_a_group_with_a_small_quota_start_at_that_groups_turn() -> None:
    """Its tasks have had fewer turns than the others'; a new one has had as many as its own group's."""
    rules = SelectionRules(group_quotas={"rare": 0.1})
    selector = FairShareSelector(AbilityBelief(), rules=rules)
    groups = np.array(["rare"] * 5 + ["common"] * 5)
    selector.setup(TaskFeatures(10, groups=groups), seed=1)
    for _ in range(100):
        batch = selector.select(4)
        selector.observe(Evidence(batch, np.full(4, 4.0), np.full(4, 8.0)))
    selector.add_tasks(TaskFeatures(13, groups=np.r_[groups, ["rare", "common", "new"]]))
    weights = np.exp(np.log(selector.turns) - selector._keys(slice(0, 13)))
    virtual = selector.turns / weights  # turns/weight
    assert virtual[10] == pytest.approx(virtual[:5].min(), rel=0.5)
    assert virtual[11] == pytest.approx(virtual[5:10].min(), rel=0.5)
    assert virtual[11] > 4 * virtual[10]
    assert virtual[:5].min() <= virtual[12] <= virtual[5:10].max()


def looking_ahead(expected_gain: float, steps: int = 0, planned: int | None = 10) -> FairShareSelector:
    """A selector of three untried tasks that are mostly solved, half solved and hardly solved, after some steps."""
    options = {"expected_gain": expected_gain, "optimism": 0.0, "temperature": 0.1, "hold": None}
    selector = FairShareSelector(AbilityBelief(), **options)  # type: ignore[arg-type]
    selector.planned_selections = planned
    selector.setup(TaskFeatures(3, {"a": np.array([0.97, 0.5, 0.03])}))
    selector.steps = steps
    selector._look_ahead()
    return selector


def test_the_weight_is_raised_by_what_is_lost_by_waiting() -> None:
    """2 w(m) − w(m + d) of every task, w worked out from its Beta with and without d added to the logit's mean."""
    selector = looking_ahead(0.75)
    mean, variance = selector.belief.predict()  # type: ignore[attr-defined]
    now, later = ((mixed_probability(*match_beta(m, variance), 16)[0] - 1) / 0.1 for m in (mean, mean + 0.75))
    keys = selector._keys(slice(0, 3))
    np.testing.assert_allclose(np.log(selector.turns) - keys, 2 * now - later, atol=0.35)  # cells round U by 0.01


def test_tasks_that_will_soon_be_solved_gain_and_tasks_not_yet_solved_wait() -> None:
    ahead, here = looking_ahead(0.75), looking_ahead(0.0)
    raised = (np.log(ahead.turns) - ahead._keys(slice(0, 3))) - (np.log(here.turns) - here._keys(slice(0, 3)))
    assert raised[0] > 0.3
    assert abs(raised[1]) < abs(raised[0])
    assert raised[2] < -0.3


def test_the_gain_left_falls_to_zero_over_the_planned_run() -> None:
    assert [looking_ahead(0.8, steps).gain_left for steps in (0, 5, 10, 99)] == pytest.approx([0.8, 0.4, 0.0, 0.0])
    assert looking_ahead(0.8, planned=None).gain_left == 0.0


def test_the_weights_follow_the_gain_while_the_run_goes_on() -> None:
    selector = looking_ahead(0.75)
    start = selector._table.copy()
    for step in range(10):
        selector.observe(outcome(selector.select(1), step))
    selector.select(1)
    end = looking_ahead(0.0)
    np.testing.assert_array_equal(selector._table, end._table)
    assert (start != end._table).any()


def test_beliefs_with_other_cells_are_weighed_alike() -> None:
    """The Beta of a BOTS task and the same Beta as an ability task's have the same weight up to rounding."""
    belief, options = BetaBelief(implicit_weight=0.0), {"expected_gain": 0.5, "hold": None, "temperature": 0.1}
    selector = FairShareSelector(belief, **options)  # type: ignore[arg-type]
    selector.planned_selections = 10
    selector.setup(TaskFeatures(4), seed=1)
    selector.observe(Evidence(np.arange(4), np.array([0.0, 1.0, 4.0, 8.0]), np.full(4, 8.0)))
    alpha, beta = selector.belief.concentrations()  # type: ignore[misc]
    mean, variance = logit_moments(alpha, beta)
    (now, spread), (later, later_spread) = (mixed_probability(*match_beta(m, variance), 16) for m in (mean, mean + 0.5))
    expected = (2 * (now + 0.5 * spread) - (later + 0.5 * later_spread) - 1) / 0.1
    np.testing.assert_allclose(np.log(selector.turns) - selector._keys(slice(0, 4)), expected, atol=0.5)


@pytest.mark.parametrize("gain", [-0.1, NAN, float("inf")])
def test_an_impossible_gain_is_refused(gain: float) -> None:
    with pytest.raises(ValueError, match=r"expected_gain=.*; expected a finite number, at least 0"):
        FairShareSelector(AbilityBelief(), expected_gain=gain)


def test_tasks_can_be_added_at_a_temperature_whose_weights_exceed_single_precision() -> None:
    selector = selector_of(50, temperature=0.005)
    for step in range(5):
        selector.observe(outcome(selector.select(8), step))
    selector.add_tasks(TaskFeatures(60))
    assert np.isfinite(selector.turns).all()
    assert len(set(selector.select(55).tolist())) == 55


def test_a_review_counts_as_a_turn() -> None:
    selector = FairShareSelector(AbilityBelief(), rules=SelectionRules(review_share=0.5, mastered=0.0))
    selector.setup(TaskFeatures(20), seed=1)
    everything = np.arange(20)
    selector._queues["mastered"].observe(everything, *selector._concentrations(everything), step=-30)
    before = selector.turns.copy()
    assert len(selector._queues["mastered"].tasks) == 20
    batch = selector.select(6)
    np.testing.assert_allclose(selector.turns[batch] - before[batch], 1.0)
    assert (np.delete(selector.turns, batch) == np.delete(before, batch)).all()
