"""Fair shares in chunks of a pool choose the same tasks as a plain sort of the whole pool, at every step."""

# Shapes: N tasks in the pool, B tasks to select, S slots of a batch.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bots_lightning.beliefs import AbilityBelief, Evidence, TaskFeatures
from bots_lightning.beliefs.logit_beta import LEAST, MEAN, MOST, PER_UNIT
from bots_lightning.selection import FairShareSelector, SelectionRules, chunks
from bots_lightning.selection.chunks import Eligible

N, B, STEPS, CHUNK = 90, 6, 60, 16


def plain_cells(belief: AbilityBelief) -> np.ndarray:
    """(N,) the nearest cell of each logit, tried ones in single precision; each step in full for all tasks."""
    cells = cells_of(*belief.predict())
    kept = belief.variance.astype(np.float32)
    drifted = (belief.step - belief.last).astype(np.float32) * np.float32(belief.task_drift) + kept
    variance = np.where(drifted > 9, np.where(kept > 9, kept, np.float32(9)), drifted)
    groups = belief._group_of_profile[belief._profile]
    mean = belief.logit.astype(np.float32) + belief.ability.mean.astype(np.float32)[groups]
    tried = belief.last >= 0
    cells[tried] = cells_of(mean[tried], variance[tried])
    return cells


def cells_of(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    row = (np.minimum(np.maximum(mean, -MEAN), MEAN) + MEAN) * PER_UNIT
    column = (np.minimum(np.maximum(np.log(variance), LEAST), MOST) - LEAST) * PER_UNIT
    half = mean.dtype.type(0.5)
    return (row + half).astype(int) * ((MOST - LEAST) * PER_UNIT + 1) + (column + half).astype(int)


def plain_choice(selector: FairShareSelector) -> Callable[[np.ndarray, Eligible], list[np.ndarray]]:
    """`_choose` by a full sort of log(turns/weight), of equal keys the first task."""

    def choose(sizes: np.ndarray, eligible: Eligible) -> list[np.ndarray]:
        if round(selector.gain_left * PER_UNIT) != selector._ahead:
            selector._look_ahead()
        belief = selector.belief
        assert isinstance(belief, AbilityBelief)
        start = selector._table_of_group[selector.group_codes] * selector._cells_each
        keys = np.log(selector.turns) - selector._table[start + plain_cells(belief)]
        blocked = set(eligible.blocked.tolist())
        slots = np.zeros(selector.num_tasks) if eligible.slots is None else eligible.slots[selector.group_codes]
        due = []
        for slot, size in enumerate(sizes.tolist()):
            allowed = [task for task in np.flatnonzero(slots == slot).tolist() if task not in blocked]
            due.append(np.array(sorted(allowed, key=lambda task: (keys[task], task))[:size], dtype=np.int64))
        selector.turns[np.concatenate(due)] += 1
        return due

    return choose


def pool(n: int, grouped: bool) -> TaskFeatures:
    rng = np.random.default_rng(5)
    references = {"a": rng.integers(0, 9, 2 * N)[:n] / 8}
    groups = np.array(["a", "b", "c"])[rng.integers(0, 3, 2 * N)[:n]] if grouped else np.empty(0, dtype=np.str_)
    return TaskFeatures(n, references, groups)


def pair(grouped: bool, drift: float, rules: SelectionRules) -> list[FairShareSelector]:
    """A selector, and one that chooses by a plain sort of the whole pool."""
    selectors = [FairShareSelector(AbilityBelief(task_drift=drift), expected_gain=0.8, rules=rules) for _ in range(2)]
    for selector in selectors:
        selector.planned_selections = STEPS
        selector.setup(pool(N, grouped), seed=3)
    selectors[1]._choose = plain_choice(selectors[1])  # type: ignore[method-assign]
    return selectors


def outcome(batch: np.ndarray, step: int, whole: bool) -> Evidence:
    """Any success counts, or rewards in between, fewer and fewer of them at an end of the range."""
    rng = np.random.default_rng([step, *batch.tolist()])
    if whole:
        return Evidence(batch, rng.integers(0, 9, len(batch)).astype(float), np.full(len(batch), 8.0))
    rewards = rng.random((len(batch), 8))
    at_an_end = rng.random((len(batch), 8)) < 4 / (4 + step)
    rewards = np.where(at_an_end, rewards.round(), rewards)
    return Evidence.from_rewards(batch, rewards.ravel(), np.full(len(batch), 8))


RULES = {
    "none": SelectionRules(),
    "cooldown": SelectionRules(cooldown=3),
    "quotas": SelectionRules(cooldown=2, group_quotas={"a": 0.5, "b": 0.2}, review_share=0.1, mastered=0.5),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("drift", [0.003, 0.8])  # the latter reaches the most drifted variance
def test_the_choices_are_those_of_a_plain_sort(
    rules: str, whole: bool, drift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With chunks none, some and all of whose tasks have been tried, tasks added on the way, and a resume."""
    monkeypatch.setattr(chunks, "CHUNK", CHUNK)
    grouped = rules == "quotas" or not whole
    selector, plain = pair(grouped, drift, RULES[rules])
    chunks_tried = set()
    for step in range(STEPS):
        if step == 20:
            for each in (selector, plain):
                each.add_tasks(pool(N + 30, grouped))
        if step == 40:
            state = selector.state_dict()
            selector = FairShareSelector(AbilityBelief(task_drift=drift), expected_gain=0.8, rules=RULES[rules])
            selector.planned_selections = STEPS
            selector.setup(pool(N + 30, grouped), seed=8)
            selector.load_state_dict(state)
        belief = selector.belief
        assert isinstance(belief, AbilityBelief)
        chunks_tried |= {round(float((belief.last[where] >= 0).mean()), 2) for where in chunks.chunks(len(belief.last))}
        batch = selector.select(B)
        np.testing.assert_array_equal(batch, plain.select(B))
        for each in (selector, plain):
            each.observe(outcome(batch, step, whole))
    np.testing.assert_array_equal(selector.turns, plain.turns)
    assert {0.0, 1.0} < chunks_tried


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("tried", [0.0, 0.5, 1.0])
def test_the_cells_of_a_chunk_are_those_of_plain_arithmetic(groups: int, tried: float) -> None:
    """Also beyond the grid and where a variance lies above the most it may grow to."""
    rng, n = np.random.default_rng(7), 20_000
    labels = np.array(["a", "b", "c"])[np.arange(n) % groups]
    belief = AbilityBelief(task_drift=0.02)
    belief.setup(TaskFeatures(n, {"a": rng.integers(0, 9, n) / 8}, labels))
    last = np.where(rng.random(n) < tried, rng.integers(0, 1000, n), -1).astype(np.int32)
    logit, variance = rng.normal(0, 6, n), np.exp(rng.uniform(-7, 5, n))
    ability = rng.normal(0, 1, groups)
    belief.load_state_dict(
        belief.state_dict() | {"logit": logit, "variance": variance, "last": last, "ability": ability, "step": 1000}
    )
    parts = [belief.cells(slice(start, min(start + 777, n))) for start in range(0, n, 777)]
    np.testing.assert_array_equal(np.concatenate(parts), plain_cells(belief))
