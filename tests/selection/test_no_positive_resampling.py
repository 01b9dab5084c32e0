# Shapes: N tasks in the pool, B tasks to select, G rollouts per task.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.selection import NoPositiveResamplingSelector, UniformSelector


def selector_of(num_tasks: int, seed: int = 0, threshold: float = 0.9) -> NoPositiveResamplingSelector:
    selector = NoPositiveResamplingSelector(threshold)
    selector.setup(TaskFeatures(num_tasks), seed)
    return selector


def test_the_threshold_itself_is_solved() -> None:
    """Of 10 rollouts 8, 9 and 10, and none: 0.9 is reached by the second and third."""
    selector = selector_of(5)
    selector.observe(Evidence(np.arange(4), np.array([8.0, 9.0, 10.0, 0.0]), np.full(4, 10.0)))
    assert set(np.concatenate([selector.select(3) for _ in range(10)]).tolist()) == {0, 3, 4}
    assert selector.metrics() == {"selection/eligible_share": 0.6}


@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.integers(0, 2**32 - 1))
def test_without_solved_tasks_it_draws_as_uniform(pool: tuple[int, int], seed: int) -> None:
    num_tasks, batch_size = pool
    selector, uniform = selector_of(num_tasks, seed), UniformSelector()
    uniform.setup(TaskFeatures(num_tasks), seed)
    batches = [np.concatenate([one.select(batch_size) for _ in range(8)]) for one in (selector, uniform)]
    for batch in batches:
        whole = batch[: len(batch) // num_tasks * num_tasks].reshape(-1, num_tasks)
        np.testing.assert_array_equal(np.sort(whole, axis=1), np.tile(np.arange(num_tasks), (len(whole), 1)))


def test_all_return_when_all_but_a_few_are_solved() -> None:
    """Each visit solves: after two batches of three of seven one is left, so that the third has three of all seven."""
    selector, seen = selector_of(7), []
    for _ in range(3):
        batch = selector.select(3)
        seen.append(selector.metrics()["selection/eligible_share"])
        selector.observe(Evidence(batch, np.full(3, 8.0), np.full(3, 8.0)))
    assert seen == pytest.approx([1, 4 / 7, 1])


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_an_impossible_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"^threshold={threshold}; expected more than 0 and at most 1"):
        NoPositiveResamplingSelector(threshold)
