# Shapes: K categories, W rollouts of a window, B tasks to select.

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import DUMPSelector

LEVELS = {solved: 2 * math.sqrt(solved * (4 - solved) / 16) * math.sqrt(3 / 4) for solved in range(5)}  # of 4 rollouts


def selector_of(groups: str, seed: int = 0, **options: Any) -> DUMPSelector:
    """On a pool with a task for each letter, its group."""
    selector = DUMPSelector(**options)
    selector.setup(TaskFeatures(len(groups), groups=np.array(list(groups))), seed)
    return selector


def observe(selector: DUMPSelector, tasks: list[int], successes: list[float]) -> None:
    selector.observe(Evidence(np.array(tasks), np.array(successes), np.full(len(tasks), 4.0)))


def test_bounds_by_hand() -> None:
    """Category a: 1 of 4 and 0 of 4, mean |A| 3/8 over 8 rollouts; b: 3 of 4; c: nothing."""
    selector = selector_of("aabc")
    assert selector.bounds(np.arange(3)).tolist() == [0, 0, 0]
    observe(selector, [0, 1, 2], [1.0, 0.0, 3.0])
    log = math.log(1 + 12)
    expected = [0.375 + math.sqrt(2 * log / 9), 0.75 + math.sqrt(2 * log / 5), math.sqrt(2 * log)]
    np.testing.assert_allclose(selector.bounds(np.arange(3)), expected)
    odds = np.exp(np.array(expected) / 0.1)
    np.testing.assert_allclose(selector.weights(np.arange(3)), odds / odds.sum())


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12), st.integers(1, 11))
def test_the_window_holds_the_last_rollouts(step_rows: list[tuple[int, int]], window: int) -> None:
    """A row of category a and one of b at each step; a window may end within a group."""
    selector = selector_of("ab", window=window)
    windows = [deque[float](maxlen=window) for _ in range(2)]
    for solved in step_rows:
        observe(selector, [0, 1], [float(count) for count in solved])
        for last, count in zip(windows, solved, strict=True):
            last.extend([LEVELS[count]] * 4)
    rollouts = 4 * len(step_rows)
    means = [np.mean(last) if last else 0.0 for last in windows]
    expected = np.array(means) + math.sqrt(2 * math.log(1 + 2 * rollouts) / (1 + rollouts))
    np.testing.assert_allclose(selector.bounds(np.arange(2)), expected, atol=1e-12)


def test_several_groups_of_a_category_that_exceed_the_window() -> None:
    """Rows are taken in the order of the pool, whatever their order: the last four of 0, 4 and 2 solved."""
    for order in ([0, 1, 2], [2, 1, 0]):
        selector = selector_of("aaab", window=6)
        observe(selector, order, [[0.0, 4.0, 2.0][task] for task in order])
        bonus = math.sqrt(2 * math.log(13) / 13)
        assert selector.bounds(np.array([0]))[0] == pytest.approx(4 * LEVELS[2] / 6 + bonus)


def test_a_category_that_was_not_tried_comes_first() -> None:
    selector = selector_of("a" * 20 + "b" * 20)
    observe(selector, list(range(10)), [2.0] * 10)
    assert (selector.select(8) >= 20).all()


def test_what_has_larger_advantages_is_selected_in_the_end() -> None:
    selector = selector_of("a" * 20 + "b" * 20, window=40)
    for _ in range(150):
        batch = selector.select(8)
        selector.observe(Evidence(batch, np.where(batch < 20, 8.0, 4.0), np.full(8, 8.0)))
    assert (np.concatenate([selector.select(8) for _ in range(20)]) >= 20).mean() > 0.95


def test_a_new_category_has_no_rollouts() -> None:
    selector = selector_of("ab")
    observe(selector, [0, 1], [1.0, 2.0])
    before = selector.bounds(np.arange(2))
    selector.add_tasks(TaskFeatures(3, groups=np.array(list("abc"))))
    np.testing.assert_allclose(selector.bounds(np.arange(3)), [*before, math.sqrt(2 * math.log(9))])


def test_another_window_is_refused_when_resuming() -> None:
    state = selector_of("ab", window=8).state_dict()
    with pytest.raises(ValueError, match=r"windows have the shape \(2, 8\), this one's \(2, 9\)\. Resume with"):
        selector_of("ab", window=9).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"window": 0}, "window=0; expected a finite number, at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0; expected more than 0"),
        ({"scale_rewards": "batch"}, "scale_rewards='batch'; expected one of 'group', 'none'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], seen: str) -> None:
    with pytest.raises(ValueError, match=f"^{seen}"):
        DUMPSelector(**options)
