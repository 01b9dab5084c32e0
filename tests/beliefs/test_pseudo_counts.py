# Shapes: H steps, M tasks.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs.pseudo_counts import PseudoCounts

NAN = float("nan")
rates = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0, NAN]))
abilities = st.one_of(st.none(), st.floats(-0.5, 1.5), st.floats(-40, 40))
steps = st.lists(st.tuples(abilities, st.floats(0, 16)), max_size=30)


def dense(
    steps: list[tuple[float | None, float]], forgetting: float, weak: np.ndarray, strong: np.ndarray
) -> np.ndarray:
    """(M,) the recursion S ← (1−λ) S + c clip(w + μ̃ (u − w), 0, 1), step by step."""
    successes = np.where(np.isnan(weak + strong), NAN, 0.0)
    for ability, count in steps:
        successes = (1 - forgetting) * successes
        if ability is not None:
            successes = successes + count * np.clip(weak + ability * (strong - weak), 0, 1)
    return successes


def lazy(steps: list[tuple[float | None, float]], forgetting: float) -> PseudoCounts:
    pseudo = PseudoCounts()
    for ability, count in steps:
        pseudo.add(ability, count, forgetting)
    return pseudo


def test_three_steps_by_hand() -> None:
    """λ = 1/2; μ̃ = 1/2, 3, −1 with counts 4, 2, 8, and none in the last step: weights 1/2, 1/2, 4."""
    pseudo = lazy([(0.5, 4.0), (3.0, 2.0), (-1.0, 8.0), (None, 5.0)], 0.5)
    assert pseudo.total == 0.5 + 0.5 + 4
    weak, strong = np.array([0.25, 0.75, 0.5, NAN, 0.5]), np.array([0.75, 0.25, 0.5, 0.5, NAN])
    # Task 0: p̃ = 0.5, 1 (1.75 clipped), 0 (−0.25 clipped); task 1: 0.5, 0 and 1; task 2: always 0.5.
    expected = [0.5 * 0.5 + 0.5, 0.5 * 0.5 + 4 * 1, 5 * 0.5, NAN, NAN]
    np.testing.assert_allclose(pseudo.successes(weak, strong), expected, rtol=1e-15)


@given(steps, st.sampled_from([0.0, 0.1, 1.0]), st.lists(st.tuples(rates, rates), min_size=1, max_size=20))
def test_the_closed_form_is_the_dense_recursion(
    steps: list[tuple[float | None, float]], forgetting: float, pairs: list[tuple[float, float]]
) -> None:
    weak, strong = np.array(pairs).T
    pseudo = lazy(steps, forgetting)
    np.testing.assert_allclose(
        pseudo.successes(weak, strong), dense(steps, forgetting, weak, strong), rtol=1e-9, atol=1e-9
    )
    counts = dense([(a, c) for a, c in steps], forgetting, np.ones(1), np.ones(1))[0]  # p̃ = 1 for all
    assert pseudo.total == pytest.approx(counts, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("forgetting", [0.0, 0.1, 1.0])
def test_a_thousand_steps_far_outside_of_the_references(forgetting: float) -> None:
    rng = np.random.default_rng(4)
    abilities = rng.normal(0.5, 1, 1000) * np.where(rng.random(1000) < 0.2, 50, 1)
    steps = [(float(ability), float(count)) for ability, count in zip(abilities, rng.random(1000), strict=True)]
    weak, strong = rng.random(500), rng.random(500)
    weak[:100] = np.round(weak[:100], 1)
    strong[:50], strong[50] = weak[:50], np.nextafter(weak[50], 1)
    found = lazy(steps, forgetting).successes(weak, strong)
    np.testing.assert_allclose(found, dense(steps, forgetting, weak, strong), rtol=0, atol=1e-9)


def test_forgotten_steps_are_dropped() -> None:
    """0.9^t · 1 falls below 1e-18 after 394 steps."""
    pseudo = lazy([(0.3, 1.0)] * 1000, 0.1)
    assert len(pseudo.weight) == 394
    assert pseudo.total == pytest.approx(10, rel=1e-15)


def test_a_restored_history_goes_on_as_the_saved_one() -> None:
    rng = np.random.default_rng(2)
    saved, restored = lazy([(float(a), 0.8) for a in rng.random(50)], 0.1), lazy([(0.9, 3.0)], 0.1)
    restored.load_state_dict(saved.state_dict())
    weak, strong = rng.random((2, 40))
    for ability in (0.2, -3.0, 0.2, 7.0):
        np.testing.assert_array_equal(restored.successes(weak, strong), saved.successes(weak, strong))
        for pseudo in (saved, restored):
            pseudo.add(ability, 0.8, 0.1)
