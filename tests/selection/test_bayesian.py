"""Properties of all selectors by a belief: the rules for every batch, and that no task is dropped."""

# Shapes: N tasks in the pool, B tasks to select, K groups.

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bots_lightning.beliefs import AbilityBelief, Belief, BetaBelief, Evidence, TaskFeatures, VisitedBetaBelief
from bots_lightning.selection import (
    BayesianSelector,
    FairShareSelector,
    ProportionalSelector,
    SelectionRules,
    ThompsonSelector,
)

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
    return selector


def test_the_review_share_is_for_mastered_tasks(new_selector: Callable[..., BayesianSelector]) -> None:
    """0.15 of 6 tasks is 0.9 a step: 36 in 40 steps, each of the 50 tasks now and then.

    The fair selector also visits some by itself, whose random first turn is early.
    """
    selector = with_mastered(new_selector(pool_of(500), belief=BetaBelief(0.0), review_share=0.15), 50)
    batches = [selector.select(6) for _ in range(40)]
    reviewed = np.concatenate([batch[batch < 50] for batch in batches])
    itself = 20 if isinstance(selector, FairShareSelector) else 0
    assert 35 <= len(reviewed) <= 37 + itself
    assert len(np.unique(reviewed)) > 18  # 50 (1 − (49/50)^36) = 26 are expected


def test_if_nothing_is_mastered_the_batch_is_filled_by_the_others(
    new_selector: Callable[..., BayesianSelector],
) -> None:
    selector = with_mastered(new_selector(pool_of(60), belief=BetaBelief(0.0), review_share=0.5), 0)
    for _ in range(10):
        assert len(set(selector.select(6).tolist())) == 6


def test_reviewed_tasks_rest_as_well(new_selector: Callable[..., BayesianSelector]) -> None:
    selector = with_mastered(new_selector(pool_of(60), belief=BetaBelief(0.0), review_share=0.5, cooldown=3), 12)
    batches = [selector.select(4) for _ in range(20)]
    for step in range(3, 20):
        assert not set(batches[step]) & set(np.concatenate(batches[step - 3 : step]))
    assert sum(int((batch < 12).sum()) for batch in batches) >= 38


# --- state ----------------------------------------------------------------------------------------------------------

RULES: dict[str, Any] = {"cooldown": 3, "group_quotas": {"a": 0.3}, "review_share": 0.1, "mastered": 0.7}


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
