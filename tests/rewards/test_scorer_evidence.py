"""The evidence of a scorer: how far each rollout solves its task, in [0, 1]."""

# Shapes: R rows.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.rewards import Scorer, exact_match, tasks_of_rows
from bots_lightning.tasks import Task

NAN = float("nan")
TASKS = [Task("first", "2+3=", "5"), Task("second", "2*3=", "6")]


def correctness(**_: Any) -> list[float | None]:
    return [1.0, 0.0, None, 0.5]


def style(**_: Any) -> list[float]:
    return [0.2, 0.2, 0.2, 0.0]


def evidence(**options: Any) -> Any:
    scorer = Scorer([correctness, style], reward_range=(0.0, 1.2), **options)
    scores, rows = scorer.scores(TASKS, [2, 2], ["a", "b", "c", "d"]), tasks_of_rows(TASKS, [2, 2])
    return scorer.evidence(scores, scorer.combine(scores, rows), rows)


@pytest.mark.parametrize("name", ["correctness", 0])
def test_the_evidence_is_the_score_of_the_function_that_is_named(name: Any) -> None:
    np.testing.assert_array_equal(evidence(evidence=name), [1, 0, NAN, 0.5])


def test_without_a_name_the_evidence_is_the_fraction_of_the_sum() -> None:
    np.testing.assert_allclose(evidence(), [1.2 / 1.2, 0.2 / 1.2, 0.2 / 1.2, 0.5 / 1.2])


def test_evidence_is_mapped_from_its_range() -> None:
    found = evidence(evidence="correctness", evidence_range=(-1.0, 3.0))
    np.testing.assert_allclose(found, [2 / 4, 1 / 4, NAN, 1.5 / 4])


def fixed(value: float) -> Any:
    def score(**_: Any) -> list[float]:
        return [value]

    return score


def test_a_function_of_a_repeated_name_has_its_number() -> None:
    scorer = Scorer([fixed(0.0), fixed(1.0)], reward_range=(0, 2), evidence="score-2")
    scores = scorer.scores(TASKS[:1], [1], ["a"])
    assert scorer.evidence(scores, scores.sum(axis=0), TASKS[:1]) == [1.0]


def test_evidence_out_of_its_range_names_function_and_task() -> None:
    with pytest.raises(ValueError, match=r"task 'second' got style's score 0, outside evidence_range=\(0.1, 1\)"):
        evidence(evidence=1, evidence_range=(0.1, 1.0))


@pytest.mark.parametrize("name", ["correct", 2, -1, ""])
def test_an_evidence_that_is_not_there_lists_what_there_is(name: Any) -> None:
    message = rf"evidence={name!r} names none of reward_funcs; expected .* of 0: correctness, 1: style\."
    with pytest.raises(ValueError, match=message):
        evidence(evidence=name)


def test_an_evidence_range_is_checked() -> None:
    with pytest.raises(ValueError, match=r"evidence_range=\(1.0, 0.0\); expected two finite numbers, low < high"):
        evidence(evidence=0, evidence_range=(1.0, 0.0))


# --- the range of rewards -----------------------------------------------------------------------------------------


@given(
    st.floats(-50, 50),
    st.floats(0.01, 100),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_fraction_maps_the_declared_range_to_0_to_1(low: float, width: float, shares: list[float]) -> None:
    scorer = Scorer([exact_match], reward_range=(low, low + width))
    fractions = scorer.fraction(low + width * np.array([0.0, *shares, 1.0]))
    np.testing.assert_allclose(fractions, [0, *shares, 1], atol=1e-9)


def test_fraction_absorbs_rounding_at_the_ends_and_keeps_nan() -> None:
    scorer = Scorer([exact_match], reward_range=(-1.0, 3.0))
    np.testing.assert_array_equal(scorer.fraction(np.array([-1 - 1e-9, 1, 3 + 1e-9, NAN])), [0, 0.5, 1, NAN])
