"""`predict` walks through the pool in the same blocks, on any number of ranks and wherever it goes on."""

# Shapes: N tasks in the pool.

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_tasks import Numbered

from bots_lightning.data import TaskDataModule, ranks
from bots_lightning.selection import UniformSelector


def blocks(
    num_tasks: int, size: int, measured: Collection[str] = (), rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """The positions in each batch of one rank."""
    module = TaskDataModule(Numbered(num_tasks), UniformSelector(), batch_size=1, eval_batch_size=size)
    module.setup()
    module.measured = lambda: measured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "world_size", lambda: world_size)
        patch.setattr(ranks, "rank", lambda: rank)
        loader = module.predict_dataloader()
    if isinstance(loader, list):
        assert loader == []
        return []
    batches = list(loader)
    assert all(batch.indices == batch.positions for batch in batches)
    assert all([task.id for task in batch.tasks] == [f"t{i}" for i in batch.indices] for batch in batches)
    return [batch.positions for batch in batches]


def test_blocks_of_the_pool_by_hand() -> None:
    assert blocks(7, 3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert blocks(7, 3, rank=0, world_size=2) == [[0, 1, 2], [6]]
    assert blocks(7, 3, rank=1, world_size=2) == [[3, 4, 5]]


def test_what_is_measured_is_left_out_and_does_not_move_the_rest() -> None:
    assert blocks(7, 3, {"t0", "t1", "t2"}) == [[3, 4, 5], [6]]
    assert blocks(7, 3, {"t1", "t3", "t4", "t5"}) == [[0, 2], [6]]
    assert blocks(7, 3, {f"t{i}" for i in range(7)}) == []


def test_a_rank_without_a_block_repeats_the_last() -> None:
    assert [blocks(4, 2, rank=rank, world_size=3) for rank in range(3)] == [[[0, 1]], [[2, 3]], [[2, 3]]]


@given(st.integers(1, 20), st.integers(1, 6), st.sets(st.integers(0, 19)), st.integers(1, 4))
def test_all_ranks_together_try_what_is_left(num_tasks: int, size: int, done: set[int], world_size: int) -> None:
    measured = {f"t{i}" for i in done}
    shares = [blocks(num_tasks, size, measured, rank, world_size) for rank in range(world_size)]
    whole = blocks(num_tasks, size, measured)
    assert {tuple(block) for share in shares for block in share} == {tuple(block) for block in whole}
    assert sorted(i for block in whole for i in block) == sorted(set(range(num_tasks)) - done)
    assert len({bool(share) for share in shares}) == 1  # all ranks take part, or none
