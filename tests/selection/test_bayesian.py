"""Properties of all selectors by a belief: the rules for every batch, and that no task is dropped."""

# Shapes: N tasks in the pool, B tasks to select, K groups.

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

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
from bots_lightning.selection import (
    BayesianSelector,
    FairShareSelector,
    ProportionalSelector,
    SelectionRules,
    ThompsonSelector,
)
from bots_lightning.selection.review import LOOKS

SELECTORS = {
    "thompson": ThompsonSelector,
    "means": lambda belief, rules: ThompsonSelector(belief, explore=False, rules=rules),
    "fair": FairShareSelector,
    "proportional": ProportionalSelector,
    "thompson of many": ThompsonSelector,
    "proportional of many": ProportionalSelector,
}


@pytest.fixture(params=SELECTORS)
def new_selector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BayesianSelector]:
    """Builds a selector of the kind with rules, ready on a pool."""
    if request.param.endswith("of many"):
        monkeypatch.setattr("bots_lightning.selection.thompson.DENSE", 0)
        monkeypatch.setattr("bots_lightning.selection.proportional.DENSE", 0)

    def build(features: TaskFeatures, seed: int = 0, belief: Belief | None = None, **rules: Any) -> BayesianSelector:
        selector = SELECTORS[request.param](belief or BetaBelief(), rules=SelectionRules(**rules))
        selector.setup(features, seed)
        return selector

    return build


def pool_of(n: int, groups: str = "") -> TaskFeatures:
    """Tasks whose groups are the letters in turn."""
    labels = np.array([groups[k % len(groups)] for k in range(n)]) if groups else np.empty(0, dtype=np.str_)
    return TaskFeatures(n, groups=labels, fingerprint=f"pool-{n}")


def observe(selector: BayesianSelector, batch: np.ndarray, step: int) -> None:
    selector.observe(Evidence(batch, (5 * batch + 3 * step) % 9, np.full(len(batch), 8.0)))


def run(selector: BayesianSelector, steps: range, batch_size: int) -> list[np.ndarray]:
    batches = []
    for step in steps:
        batches.append(selector.select(batch_size))
        observe(selector, batches[-1], step)
        assert len(set(batches[-1].tolist())) == batch_size  # no task twice, whatever the rules
    return batches


# --- cooldown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cooldown", [1, 4])
def test_a_task_rests_for_the_steps_of_the_cooldown(
    new_selector: Callable[..., BayesianSelector], cooldown: int
) -> None:
    batches = run(new_selector(pool_of(40), cooldown=cooldown), range(60), 6)
    for step, batch in enumerate(batches):
        rested = {task for before in batches[max(0, step - cooldown) : step] for task in before.tolist()}
        assert not rested & set(batch.tolist())
    returned = [set(batches[step].tolist()) & set(batches[step - cooldown - 1].tolist()) for step in range(6, 60)]
    assert any(returned)  # the rest is not longer


def test_if_too_few_tasks_are_left_those_selected_longest_ago_return(
    new_selector: Callable[..., BayesianSelector],
) -> None:
    """Ten tasks, four per step, cooldown 5: a batch has the two tasks left, then those selected longest ago."""
    batches = run(new_selector(pool_of(10), cooldown=5), range(40), 4)
    resting = deque[set[int]]([], maxlen=5)
    for batch in batches:
        chosen, fresh = set(batch.tolist()), set(range(10)) - set().union(*resting)
        released = list(resting)
        while len(fresh) < 4:
            assert fresh <= chosen  # all that could come before another one was released did
            released.pop(0)
            fresh = set(range(10)) - set().union(*released)
        assert chosen <= fresh
        resting.append(chosen)


# --- quotas ---------------------------------------------------------------------------------------------------------


def test_quotas_hold_over_the_run_and_fractions_are_carried(new_selector: Callable[..., BayesianSelector]) -> None:
    """Of 7 tasks a step: 0.7 of a, 1.75 of b, the rest of c and d."""
    selector = new_selector(pool_of(80, "abcd"), group_quotas={"a": 0.1, "b": 0.25})
    batches = run(selector, range(40), 7)
    for steps in (4, 20, 40):
        counts = np.bincount(np.concatenate(batches[:steps]) % 4, minlength=4)
        assert abs(counts[0] - 0.7 * steps) < 1
        assert abs(counts[1] - 1.75 * steps) < 1
    assert [np.bincount(np.concatenate(batches) % 4)[k] for k in (0, 1)] == [28, 70]
    assert {int((batch % 4 == 1).sum()) for batch in batches} == {1, 2}


def test_a_group_with_too_few_tasks_is_filled_up_by_the_others(new_selector: Callable[..., BayesianSelector]) -> None:
    features = TaskFeatures(30, groups=np.array(["few"] * 2 + ["many"] * 28))
    for batch in run(new_selector(features, group_quotas={"few": 0.5, "many": 0.5}), range(10), 8):
        assert {0, 1} <= set(batch.tolist())


class Counting(BetaBelief):
    """Counts how many tasks are looked at."""

    looked_at = 0

    def cells(self, where: slice) -> np.ndarray:
        cells = super().cells(where)
        self.looked_at += len(cells)
        return cells


@pytest.mark.parametrize("selector", [ThompsonSelector, FairShareSelector])
def test_a_large_pool_is_gone_through_once_however_many_quotas_there_are(
    selector: Callable[..., BayesianSelector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots_lightning.selection.thompson.DENSE", 0)
    monkeypatch.setattr("bots_lightning.selection.chunks.CHUNK", 128)
    belief, n, quotas = Counting(), 4000, dict.fromkeys("abcdefgh", 1 / 8)
    chooses = selector(belief, rules=SelectionRules(cooldown=1, group_quotas=quotas))
    chooses.setup(pool_of(n, "abcdefgh"))
    run(chooses, range(8), 16)  # the first selections find the radius
    belief.looked_at = 0
    for batch in run(chooses, range(8, 28), 16):
        assert np.bincount(batch % 8).tolist() == [2] * 8
    assert belief.looked_at <= 1.1 * 20 * n


@pytest.mark.parametrize(
    ("quotas", "message"), [({"z": 0.5}, r"names \['z'\]"), ({"a": 0.5, "b": 0.4}, "names all groups")]
)
def test_quotas_that_do_not_fit_the_pool_are_refused_at_setup(
    new_selector: Callable[..., BayesianSelector], quotas: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        new_selector(pool_of(6, "ab"), group_quotas=quotas)


# --- review ---------------------------------------------------------------------------------------------------------


def with_mastered(selector: BayesianSelector, mastered: int) -> BayesianSelector:
    """The first tasks are solved 400 times out of 400, the others half of the time."""
    belief = selector.belief
    assert isinstance(belief, BetaBelief)
    belief.successes[:], belief.failures[:] = 200.0, 200.0
    belief.successes[:mastered], belief.failures[:mastered] = 400.0, 0.0
    belief.step = belief.last[:] = 1
    for queue in selector._queues.values():
        queue.observe(np.arange(mastered), *belief.concentrations(np.arange(mastered)), step=0)
    return selector


def test_the_review_share_is_for_mastered_tasks_that_are_due(new_selector: Callable[..., BayesianSelector]) -> None:
    """Of 400 successes in 400, P(p < 0.9) is nothing: all 20 tasks are due after 23 steps; 0.15 of 6 is 0.9 a step.

    The fair selector also visits some by itself, whose random first turn is early.
    """
    selector = with_mastered(new_selector(pool_of(500), belief=BetaBelief(0.0), review_share=0.15), 20)
    batches = [selector.select(6) for _ in range(60)]
    reviewed = [int((batch < 20).sum()) for batch in batches]
    itself = 20 if isinstance(selector, FairShareSelector) else 0
    assert sum(reviewed[:23]) <= itself
    assert 20 <= sum(reviewed[23:46]) <= 21 + itself  # once each, whether or not they yield evidence
    assert len(np.unique(np.concatenate([batch[batch < 20] for batch in batches[23:46]]))) == 20
    assert all(len(set(batch.tolist())) == 6 for batch in batches)  # what is not due goes to the others


def test_mastered_tasks_are_reviewed_whether_or_not_they_were_visited(
    new_selector: Callable[..., BayesianSelector],
) -> None:
    """Of 20 successes in 20, P(p < 0.9) = 0.9^21 = 0.11: due after 9 steps, by 9 (1 − 0.89 exp(−0.018)) = 1.1."""
    selector = new_selector(pool_of(24), belief=BetaBelief(0.0), review_share=0.5, mastered=0.9)
    belief, visited = selector.belief, np.arange(4)
    assert isinstance(belief, BetaBelief)
    belief.successes[:], belief.failures[:] = 200.0, 200.0
    belief.successes[4:6], belief.failures[4:6] = 20.0, 0.0
    belief.step = belief.last[:] = 1
    belief.successes[visited] = belief.failures[visited] = 0.0
    selector.observe(Evidence(visited, np.full(4, 20.0), np.full(4, 20.0)))
    batches = [set(selector.select(12).tolist()) & set(range(6)) for _ in range(10)]
    if isinstance(selector, ThompsonSelector):  # the others select some by themselves, whose time begins anew
        assert [len(batch) for batch in batches] == [0] * 8 + [4, 2]  # the visit is a step before the first look
        assert set().union(*batches) == set(range(6))


def test_if_nothing_is_mastered_the_batch_is_filled_by_the_others(
    new_selector: Callable[..., BayesianSelector],
) -> None:
    selector = with_mastered(new_selector(pool_of(60), belief=BetaBelief(0.0), review_share=0.5), 0)
    for _ in range(10):
        assert len(set(selector.select(6).tolist())) == 6


def test_reviewed_tasks_rest_as_well(new_selector: Callable[..., BayesianSelector]) -> None:
    """Predicted at 0.55 with hardly any evidence, a mastered task is due after 2 steps: P(p < 0.5) = 0.4."""
    rules = {"review_share": 0.5, "mastered": 0.5, "cooldown": 3}
    selector = new_selector(pool_of(60), belief=BetaBelief(0.0), **rules)
    belief = selector.belief
    assert isinstance(belief, BetaBelief)
    belief.successes[:], belief.failures[:] = 4.5, 3.5
    belief.successes[12:], belief.failures[12:] = 3.0, 6.0
    belief.step = belief.last[:] = 1
    batches = [selector.select(4) for _ in range(20)]
    for step in range(3, 20):
        assert not set(batches[step]) & set(np.concatenate(batches[step - 3 : step]))
    assert sum(int((batch < 12).sum()) for batch in batches[3:]) >= 2 * 17


def test_a_task_of_both_kinds_comes_once_and_a_batch_has_no_more_than_its_size(
    new_selector: Callable[..., BayesianSelector],
) -> None:
    """Every task is in both queues, and nothing is known of any: P(p < 0.99) = P(p > 0.01) = 0.99, all are due."""
    rules = {"review_share": 0.5, "retry_share": 0.5, "mastered": 0.99, "hopeless": 0.01}
    selector = new_selector(pool_of(30), **rules)
    for queue in selector._queues.values():
        extreme = np.full(30, 1e9), np.full(30, 1e-9)
        queue.observe(np.arange(30), *(extreme if queue.mastered else extreme[::-1]), step=-3)
    for size in (1, 1, 3, 5, 8):
        assert len(set(selector.select(size).tolist())) == size


class RandomReview(ThompsonSelector):
    """Reviews random tasks that are believed mastered, due or not."""

    owed = 0.0

    def _review(self, batch_size: int) -> np.ndarray:
        self.owed += self.rules.review_share * batch_size
        size = int(self.owed)
        self.owed -= size
        shuffled = self.rng.permutation(self.num_tasks)
        return shuffled[self.belief.mean()[shuffled] >= self.rules.mastered][:size]


def steps_until_found(selector: BayesianSelector, seed: int, n: int = 240, steps: int = 200) -> float:
    """Mean number of steps from the step at which a mastered task is forgotten to its next visit.

    Half of the tasks are solved at a rate of 0.98; each is forgotten once in 500 steps, and then solved at 0.2 until it
    is visited.
    """
    rng, easy = np.random.default_rng(seed), n // 2
    rates = np.r_[np.full(easy, 0.98), rng.uniform(0.1, 0.8, n - easy)]
    selector.setup(TaskFeatures(n), seed)
    selector.observe(Evidence(np.arange(easy), rng.binomial(16, rates[:easy]).astype(float), np.full(easy, 16.0)))
    forgotten, waits = np.full(n, -1), []
    for step in range(steps):
        batch = selector.select(16)
        found = batch[forgotten[batch] >= 0]
        waits += (step - forgotten[found]).tolist()
        forgotten[found], rates[found] = -1, 0.98
        selector.observe(Evidence(batch, rng.binomial(16, rates[batch]).astype(float), np.full(16, 16.0)))
        lost = np.flatnonzero((rng.random(n) < 0.002) & (forgotten < 0) & (np.arange(n) < easy))
        forgotten[lost], rates[lost] = step, 0.2
    waits += (steps - forgotten[forgotten >= 0]).tolist()
    return float(np.mean(waits))


@pytest.mark.parametrize(("belief", "margin"), [(BetaBelief, 0.85), (VisitedBetaBelief, 0.75)])
def test_forgotten_tasks_are_found_sooner_than_by_random_review(belief: Callable[[], Belief], margin: float) -> None:
    rules = SelectionRules(review_share=0.2, mastered=0.75)
    due, random = (
        np.mean([steps_until_found(kind(belief(), rules=rules), seed) for seed in range(4)])
        for kind in (ThompsonSelector, RandomReview)
    )
    assert due < margin * random


def test_a_group_that_gets_worse_is_reviewed_first() -> None:
    """Two groups are mastered alike; a few tasks of the second are then failed, and the ability of all of it falls."""
    features = TaskFeatures(200, groups=np.array(["a", "b"] * 100))
    selector = ThompsonSelector(AbilityBelief(), rules=SelectionRules(review_share=0.5, mastered=0.7))
    selector.setup(features)
    for start in range(0, 160, 16):
        selector.observe(Evidence(np.arange(start, start + 16), np.tile([15.0, 14.0], 8), np.full(16, 16.0)))
    failed = np.arange(1, 48, 2)
    for some in np.split(failed, 3):
        selector.observe(Evidence(some, np.full(8, 3.0), np.full(8, 16.0)))
    selector.steps = 40  # all are due
    reviewed = selector._review(16)
    assert len(reviewed) == 8
    assert (reviewed % 2 == 1).all()
    assert not set(reviewed) & set(failed)  # they are not mastered any more


# --- hopeless tasks -------------------------------------------------------------------------------------------------


def first_returns(selector: BayesianSelector, steps: int) -> np.ndarray:
    """(12,) step at which hopeless tasks that were failed 64 times come again; `steps` for those that do not."""
    rng, n = np.random.default_rng(2), 160
    rates = np.r_[np.zeros(12), rng.uniform(0.2, 0.8, n - 12)]
    references = {"weak": np.maximum(rates - 0.1, 0), "strong": np.where(rates > 0, rates + 0.1, 0.0)}
    selector.setup(TaskFeatures(n, references), seed=4)
    for _ in range(4):
        selector.observe(Evidence(np.arange(n), rng.binomial(16, rates).astype(float), np.full(n, 16.0)))
    first = np.full(n, steps)
    for step in range(steps):
        batch = selector.select(8)
        first[batch] = np.minimum(first[batch], step)
        selector.observe(Evidence(batch, rng.binomial(16, rates[batch]).astype(float), np.full(8, 16.0)))
    return first[:12]


HOPELESS: dict[str, Callable[[], Belief]] = {
    "explicit": lambda: BetaBelief(implicit_weight=0.0),
    "bots": lambda: BetaBelief(implicit=ReferenceInterpolation("weak", "strong")),
    "adaptive": lambda: AdaptiveBetaBelief([0.05, 0.1], [0.1], implicit=ReferenceInterpolation("weak", "strong")),
    "mopps": VisitedBetaBelief,
    "ability": lambda: AbilityBelief(references=["weak", "strong"]),
}


@pytest.mark.parametrize("belief", HOPELESS)
@pytest.mark.parametrize("selector", [ThompsonSelector, ProportionalSelector])
def test_hopeless_tasks_are_tried_again(
    belief: str, selector: type[ThompsonSelector] | type[ProportionalSelector]
) -> None:
    """0.1 of 8 tasks a step, of 12 that are due after 23 steps at the latest: all within 23 + 12/0.8 = 38."""
    first = first_returns(selector(HOPELESS[belief](), rules=SelectionRules(retry_share=0.1)), 60)
    assert first.max() < 38


@pytest.mark.parametrize("belief", HOPELESS)
def test_without_retries_only_a_belief_that_forgets_tries_hopeless_tasks_again(belief: str) -> None:
    first = first_returns(ThompsonSelector(HOPELESS[belief]()), 150)
    assert (first < 150).mean() > 0.9 if belief == "explicit" else (first == 150).mean() > 0.6


# --- state ----------------------------------------------------------------------------------------------------------

RULES: dict[str, Any] = {"cooldown": 3, "group_quotas": {"a": 0.3}} | {
    "review_share": 0.2,
    "mastered": 0.6,
    "retry_share": 0.1,
    "hopeless": 0.3,
}


def test_rules_survive_a_resume(new_selector: Callable[..., BayesianSelector]) -> None:
    uninterrupted, resumed = (new_selector(pool_of(60, "abc"), seed, **RULES) for seed in (1, 2))
    run(resumed, range(3), 7)
    for steps in (range(0, 2), range(2, 9)):
        run(uninterrupted, steps, 7)
        resumed.load_state_dict(uninterrupted.state_dict())
        state = uninterrupted.state_dict()
        following = run(uninterrupted, range(steps.stop, steps.stop + 10), 7)
        np.testing.assert_array_equal(run(resumed, range(steps.stop, steps.stop + 10), 7), following)
        uninterrupted.load_state_dict(state)


def test_a_share_may_be_new_at_a_resume(new_selector: Callable[..., BayesianSelector]) -> None:
    saved, resumed = new_selector(pool_of(60)), new_selector(pool_of(60), review_share=0.5, mastered=0.6)
    run(saved, range(5), 6)
    resumed.load_state_dict(saved.state_dict())
    for batch in run(resumed, range(5, 20), 6):
        assert len(batch) == 6
    assert len(resumed._queues["mastered"].tasks)


def test_without_shares_nothing_is_kept_and_nothing_drawn(new_selector: Callable[..., BayesianSelector]) -> None:
    selector = new_selector(pool_of(60), review_share=0.0, retry_share=0.0)
    before = selector.rng.bit_generator.state
    assert len(selector._review(8)) == 0
    assert selector.rng.bit_generator.state == before
    assert selector.state_dict()["queues"] == {}


def test_reviews_go_on_when_tasks_are_added(new_selector: Callable[..., BayesianSelector]) -> None:
    """Eight tasks that are due after 23 steps, two a step: in any 27 steps, all of them."""
    selector = with_mastered(new_selector(pool_of(100), belief=BetaBelief(0.0), review_share=0.5), 8)
    for _ in range(20):
        selector.select(4)
    selector.add_tasks(pool_of(130))
    batches = [selector.select(4) for _ in range(27)]
    assert set(range(8)) <= set(np.concatenate(batches).tolist())


class Reading(VisitedBetaBelief):
    """Counts how many posteriors are read for reviews."""

    read = 0

    def concentrations(self, where: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(where, slice):
            self.read += len(where)
        return super().concentrations(where)


def test_a_batch_reads_few_posteriors_for_reviews_whatever_the_pool() -> None:
    belief, n = Reading(), 30_000
    selector = ThompsonSelector(belief, explore=False, rules=SelectionRules(review_share=0.2, retry_share=0.1))
    selector.setup(pool_of(n))
    selector.observe(Evidence(np.arange(n), np.where(np.arange(n) % 2, 16.0, 0.0), np.full(n, 16.0)))
    for step in range(30):
        belief.read = 0
        batch = selector.select(32)
        assert belief.read <= 3 * LOOKS
        assert step < 8 or (batch % 2 == 1).sum() >= 6  # 0.2 of 32
        selector.observe(Evidence(batch, np.full(32, 16.0), np.full(32, 16.0)))


def test_a_state_with_other_quotas_is_refused(new_selector: Callable[..., BayesianSelector]) -> None:
    saved, other = new_selector(pool_of(6, "ab"), group_quotas={"a": 0.5}), new_selector(pool_of(6, "ab"))
    with pytest.raises(
        ValueError, match=r"divides each batch into 2 shares, this one into 1\. Resume with the `group_quotas`"
    ):
        other.load_state_dict(saved.state_dict())


# --- no task is dropped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("belief", [BetaBelief, VisitedBetaBelief, AbilityBelief])
@pytest.mark.parametrize(
    "selector", [ThompsonSelector, lambda belief: FairShareSelector(belief, temperature=0.12), ProportionalSelector]
)
def test_tasks_that_have_never_been_solved_are_deferred_and_return(
    belief: Callable[[], Belief], selector: Callable[[Belief], BayesianSelector]
) -> None:
    """After three times 0 of 8, Beta(1, 25) without forgetting, there is a fourth time."""
    rng, n = np.random.default_rng(5), 8
    rates = np.r_[0.0, 0.0, np.linspace(0.2, 0.8, 6)]
    chooses, counts = selector(belief()), np.zeros(n)
    chooses.setup(TaskFeatures(n), seed=3)
    for _ in range(1000):
        batch = chooses.select(4)
        counts[batch] += 1
        chooses.observe(Evidence(batch, rng.binomial(8, rates[batch]).astype(np.float64), np.full(4, 8.0)))
    assert counts[:2].min() >= 4
    assert counts[:2].max() < 0.5 * counts[2:].min()


def test_what_is_due_to_a_group_survives_added_tasks(new_selector: Callable[..., BayesianSelector]) -> None:
    """A tenth of batches of 4, with a task added after each of 30 steps: 12 tasks of the group."""
    groups = ["a"] * 20 + ["b"] * 20
    selector = new_selector(TaskFeatures(40, groups=np.array(groups)), seed=1, group_quotas={"a": 0.1})
    chosen = 0
    for step in range(30):
        batch = selector.select(4)
        chosen += sum(groups[task] == "a" for task in batch.tolist())
        observe(selector, batch, step)
        groups = [*groups, "b"]
        selector.add_tasks(TaskFeatures(len(groups), groups=np.array(groups)))
    assert chosen == 12


class Broken(BetaBelief):
    """Draws that are no numbers."""

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        return np.full(len(self.successes), np.nan)


def test_a_belief_that_is_not_finite_is_named_and_the_run_does_not_hang() -> None:
    selector = ThompsonSelector(Broken())
    selector.setup(pool_of(9))
    with pytest.raises(RuntimeError, match=r"chose 0 of 4 tasks, though 9 are left: Broken predicts .* not finite"):
        selector.select(4)
