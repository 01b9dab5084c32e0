# Shapes: K categories, B tasks to select, n rollouts of a task.

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import SECSelector


def selector_of(groups: str, seed: int = 0, **options: Any) -> SECSelector:
    """On a pool with a task for each letter, its group."""
    selector = SECSelector(**options)
    selector.setup(TaskFeatures(len(groups), groups=np.array(list(groups))), seed)
    return selector


def observe(selector: SECSelector, tasks: list[int], successes: list[float], counts: list[float]) -> None:
    selector.observe(Evidence(np.array(tasks), np.array(successes), np.array(counts)))


def test_values_move_as_by_hand() -> None:
    """η = 1/2. Category a: 1 of 4 (mean |A| 3/4) and 0 of 4, so 3/8; category b, 3 of 4, comes one step later."""
    selector = selector_of("aab", learning_rate=0.5, temperature=0.25)
    observe(selector, [0, 1], [1.0, 0.0], [4.0, 4.0])
    odds = math.exp(0.1875 / 0.25)
    np.testing.assert_allclose(selector.weights(np.arange(2)), [odds / (1 + odds), 1 / (1 + odds)])
    observe(selector, [2, 1], [3.0, 4.0], [4.0, 4.0])  # a: 0; b: 3/4
    odds = math.exp((0.375 - 0.09375) / 0.25)
    np.testing.assert_allclose(selector.weights(np.arange(2)), [1 / (1 + odds), odds / (1 + odds)])
    assert selector.metrics() == {"selection/largest_share": pytest.approx(odds / (1 + odds))}


def test_the_mean_is_over_rollouts_whatever_the_order_of_the_rows() -> None:
    """2 of 4 has mean |A| = √3/2, none of 12 has 0: √3/2 · 4/16, also if the twelve come in two rows."""
    shares = []
    for order in ([0, 1, 2], [2, 0, 1]):
        selector = selector_of("aab", learning_rate=1.0, temperature=1.0)
        tasks, successes, counts = np.array([[0, 2.0, 4.0], [1, 0.0, 5.0], [1, 0.0, 7.0]])[order].T
        observe(selector, tasks.astype(int).tolist(), successes.tolist(), counts.tolist())
        shares.append(selector.weights(np.arange(2)))
    np.testing.assert_array_equal(shares[0], shares[1])
    assert math.log(shares[0][0] / shares[0][1]) == pytest.approx(math.sqrt(3) / 8)


def test_advantages_without_the_deviation() -> None:
    selector = selector_of("ab", learning_rate=1.0, temperature=1.0, scale_rewards="none")
    observe(selector, [0], [2.0], [4.0])
    ratio = selector.weights(np.arange(2))
    assert math.log(ratio[0] / ratio[1]) == pytest.approx(0.5)  # 2 p (1−p)


def test_evidence_without_rollouts_moves_nothing() -> None:
    selector = selector_of("ab")
    observe(selector, [0], [0.0], [0.0])
    assert selector.weights(np.arange(2)).tolist() == [0.5, 0.5]


def test_categories_are_drawn_as_often_as_their_weight_says() -> None:
    selector = selector_of("a" * 30 + "b" * 10, learning_rate=1.0, temperature=1.0)
    observe(selector, [0], [4.0], [8.0])
    expected = selector.weights(np.arange(2))[0]
    chosen = np.concatenate([selector.select(2) for _ in range(2000)])
    assert (chosen < 30).mean() == pytest.approx(expected, abs=0.03)
    assert expected > 0.7


def test_one_category_is_uniform_selection() -> None:
    selector = SECSelector()
    selector.setup(TaskFeatures(7), seed=2)
    epochs = np.concatenate([selector.select(3) for _ in range(21)]).reshape(-1, 7)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(7), (9, 1)))


def test_levels_of_a_reference_are_categories() -> None:
    """Tasks solved half of the time attract, those that are never solved do not."""
    rates = np.repeat([0.0, 0.5], 10)
    selector = SECSelector("strong", num_bins=2, temperature=0.1)
    selector.setup(TaskFeatures(20, {"strong": rates}), seed=0)
    for _ in range(40):
        batch = selector.select(4)
        selector.observe(Evidence(batch, 8 * rates[batch], np.full(4, 8.0)))
    assert (np.concatenate([selector.select(4) for _ in range(50)]) >= 10).mean() > 0.95


def test_a_new_category_starts_at_zero() -> None:
    selector = selector_of("ab", learning_rate=1.0, temperature=1.0)
    observe(selector, [0, 1], [4.0, 0.0], [8.0, 8.0])
    before = selector.weights(np.arange(2))
    selector.add_tasks(TaskFeatures(3, groups=np.array(list("abc"))))
    after = selector.weights(np.arange(3))
    assert after[2] == after[1]
    assert after[0] / after[1] == pytest.approx(before[0] / before[1])


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"learning_rate": 1.5}, "learning_rate=1.5; expected at least 0 and at most 1"),
        ({"temperature": 0.0}, "temperature=0.0; expected more than 0"),
        ({"scale_rewards": "batch"}, "scale_rewards='batch'; expected one of 'group', 'none'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], seen: str) -> None:
    with pytest.raises(ValueError, match=f"^{seen}"):
        SECSelector(**options)
