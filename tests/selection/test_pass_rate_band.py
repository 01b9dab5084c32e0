# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import PassRateBandSelector

NAN = float("nan")
RATES = [0.0, 0.19, 0.2, 0.5, 0.8, 0.81, 1.0, NAN]


def selector_of(rates: list[float], seed: int = 0, **options: Any) -> PassRateBandSelector:
    selector = PassRateBandSelector("strong", **options)
    selector.setup(TaskFeatures(len(rates), {"strong": np.array(rates)}), seed)
    return selector


def chosen(selector: PassRateBandSelector, batch_size: int = 2) -> set[int]:
    return set(np.concatenate([selector.select(batch_size) for _ in range(30)]).tolist())


def test_both_ends_belong_to_the_band_as_do_unknown_tasks() -> None:
    selector = selector_of(RATES)
    assert chosen(selector) == {2, 3, 4, 7}
    assert selector.metrics() == {"selection/eligible_share": 0.5}
    assert chosen(selector_of(RATES, min_pass_rate=0.5, max_pass_rate=0.5)) == {3, 7}


def test_visits_count_from_then_on() -> None:
    """Tasks 2 and 7 leave at 0 of 8 and 7 of 8; 3 stays at 4 of 8."""
    selector = selector_of(RATES)
    selector.observe(Evidence(np.array([2, 3, 7]), np.array([0.0, 4.0, 7.0]), np.full(3, 8.0)))
    assert chosen(selector) == {3, 4}


def test_the_reference_counts_again_once_too_few_are_left() -> None:
    selector = selector_of(RATES)
    selector.observe(Evidence(np.array([2, 3, 7]), np.zeros(3), np.full(3, 8.0)))
    assert chosen(selector, 1) == {4}
    assert chosen(selector, 2) == {2, 3, 4, 7}


def test_the_reference_alone_is_a_fixed_filter() -> None:
    selector = selector_of(RATES, measured=False)
    selector.observe(Evidence(np.array([2, 3, 7]), np.zeros(3), np.full(3, 8.0)))
    assert chosen(selector) == {2, 3, 4, 7}


def test_without_a_reference_every_task_is_tried_once() -> None:
    selector = PassRateBandSelector()
    selector.setup(TaskFeatures(6))
    batches = [selector.select(3) for _ in range(2)]
    assert set(np.concatenate(batches).tolist()) == set(range(6))
    for batch in batches:
        selector.observe(Evidence(batch, np.where(batch < 4, 4.0, 8.0), np.full(3, 8.0)))
    assert chosen(selector) == {0, 1, 2, 3}


def test_new_tasks_pass_the_same_band() -> None:
    selector = selector_of([0.5, 0.0, 0.5])
    selector.observe(Evidence(np.array([0]), np.array([0.0]), np.array([8.0])))
    selector.add_tasks(TaskFeatures(5, {"strong": np.array([0.5, 0.0, 0.5, 0.9, 0.3])}))
    assert chosen(selector, 1) == {2, 4}
    assert chosen(selector, 3) == {0, 2, 4}


def test_a_band_with_too_few_tasks_is_named() -> None:
    with pytest.raises(ValueError, match="4 of 8 tasks pass the filter of PassRateBandSelector, fewer than"):
        selector_of(RATES).select(5)
    with pytest.raises(ValueError, match="no reference column 'weak'"):
        PassRateBandSelector("weak").setup(TaskFeatures(3, {"strong": np.zeros(3)}))


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"min_pass_rate": -0.1}, "min_pass_rate=-0.1; expected at least 0 and at most 1"),
        ({"min_pass_rate": 0.5, "max_pass_rate": 0.4}, "max_pass_rate=0.4; expected at least 0.5 and at most 1"),
        ({"measured": False}, "reference=None and measured=False; nothing to filter by"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], seen: str) -> None:
    with pytest.raises(ValueError, match=f"^{seen}"):
        PassRateBandSelector(**options)
