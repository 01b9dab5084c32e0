# Shapes: N tasks in the pool.

from __future__ import annotations

import numpy as np
import pytest

from bots_lightning.selection.epoch import ShuffledEpoch


def drawn(epoch: ShuffledEpoch, rng: np.random.Generator, count: int) -> list[int]:
    return [epoch.next((), rng) for _ in range(count)]


def test_epochs_are_the_permutations_of_the_generator() -> None:
    rng, expected = np.random.default_rng(3), np.random.default_rng(3)
    epoch = ShuffledEpoch(6, rng)
    for _ in range(3):
        assert drawn(epoch, rng, 6) == expected.permutation(6).tolist()


@pytest.mark.parametrize("held", [[], [4], [1, 5, 2]])
def test_a_new_epoch_ends_with_the_tasks_of_the_batch(held: list[int]) -> None:
    rng, expected = np.random.default_rng(3), np.random.default_rng(3)
    epoch = ShuffledEpoch(6, rng)
    drawn(epoch, rng, 6)
    expected.permutation(6)
    fresh = expected.permutation(6).tolist()
    first = epoch.next(held, rng)
    order = [task for task in fresh if task not in held] + [task for task in fresh if task in held]
    assert [first, *drawn(epoch, rng, 5)] == order


def test_a_restored_epoch_goes_on_in_its_middle() -> None:
    rng = np.random.default_rng(3)
    epoch, restored = ShuffledEpoch(6, rng), ShuffledEpoch(6, np.random.default_rng(8))
    drawn(epoch, rng, 4)
    state = epoch.state_dict()
    expected = drawn(epoch, rng, 2)
    restored.load_state_dict(state)
    state["epoch"][:] = -1
    assert drawn(restored, rng, 2) == expected
