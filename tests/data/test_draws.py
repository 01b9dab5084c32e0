"""Each drawn task has its number of rollouts, from the allocation over the ranks to the batch, and after a resume."""

# Shapes: N tasks in the pool, B tasks per step over all ranks.

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from allocations import InTurn
from hypothesis import given
from hypothesis import strategies as st
from numbered_tasks import Numbered, bots, datamodule

from bots_lightning.allocation import Allocation, FixedAllocation, KnapsackAllocation, VarianceAllocation
from bots_lightning.beliefs import Evidence
from bots_lightning.data import DrawnTask, TaskBatch, TaskDataModule, ranks
from bots_lightning.data.draws import Draw, allocated, believed, own_share
from bots_lightning.data.workload import Workload, equal_shares
from bots_lightning.selection import UniformSelector

NO_GROUPS = np.empty(0, dtype=np.str_)


COUNTS = [2, 3, 5, 6]  # of at most 4 on average


def allocating(allocation: Allocation | None = None, num_generations: int = 4, **options: Any) -> TaskDataModule:
    data = datamodule(options.pop("selector", UniformSelector()), allocation=allocation or InTurn(COUNTS), **options)
    data.num_generations = num_generations  # as the training module does in its setup
    return data


def observe(data: TaskDataModule, indices: list[int]) -> None:
    data.observe(Evidence(np.array(indices), np.zeros(len(indices)), np.ones(len(indices))))


def become(patch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    patch.setattr(ranks, "rank", lambda: rank)
    patch.setattr(ranks, "world_size", lambda: world_size)


# --- what the allocation gives ---------------------------------------------------------------------------------------


def test_a_batch_has_the_rollouts_that_are_allocated() -> None:
    data = allocating()
    for batch in data.train_dataloader():
        assert batch.counts == COUNTS
        assert batch.starts == [0] * 4
        assert (data.draws.first.indices, data.draws.first.counts) == (batch.indices, batch.counts)
        observe(data, batch.indices)
        assert len(data.draws) == 0


def test_by_default_each_task_gets_num_generations() -> None:
    data = allocating(FixedAllocation(), num_generations=5)
    assert next(iter(data.train_dataloader())).counts == [5] * 4


@pytest.mark.parametrize("counts", [[2, 1, 2, 2], [2, 2, -1, 2], [2, 2, 2], [2.0, 3.0, 2.0, 3.0], [2, 5, 5, 5]])
def test_what_is_no_number_of_rollouts_is_refused(counts: list[Any]) -> None:
    class Wrong(Allocation):
        def allocate(self, alpha: Any, beta: Any, num_generations: int) -> Any:
            return np.array(counts)

    data = allocating(Wrong())
    message = (
        f"Wrong.allocate gave {counts} for 4 tasks; expected a whole number of rollouts for each, at least 2, and no "
        "more than 16 together."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        data.select()
    assert data.selection_counts.sum() == 0


def test_evaluation_and_prediction_have_rollouts_of_their_own() -> None:
    data = allocating(evaluation={"heldout": Numbered(3)}, eval_batch_size=2)
    data.eval_num_generations = 7
    (heldout,) = data.val_dataloader()
    assert [batch.counts for batch in heldout] == [[7, 7], [7]]
    assert [batch.counts for batch in data.predict_dataloader()] == [[4, 4]] * 5


def test_a_batch_of_drawn_tasks_by_hand() -> None:
    pool = Numbered().load()
    batch = TaskBatch.of([DrawnTask(place=5, index=3, count=2), DrawnTask(place=0, index=9, count=1)], pool)
    assert (batch.positions, batch.indices, batch.counts) == ([5, 0], [3, 9], [2, 1])
    assert [task.id for task in batch.tasks] == ["t3", "t9"]


def test_nobody_subclasses_the_data_module() -> None:
    """So that options of it need no class_path."""
    assert TaskDataModule.__final__  # type: ignore[attr-defined]


# --- several ranks --------------------------------------------------------------------------------------------------


def test_ranks_share_tokens_and_not_tasks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Workload(4, NO_GROUPS)
    workload.observe({0: 10.0, 1: 30.0, 2: 20.0, 3: 20.0})
    # Task 0 gets four times as many rollouts: 40 goes to rank 0, 30 and 20 to rank 1, 20 to rank 0.
    expected = {0: [DrawnTask(0, 0, 8), DrawnTask(3, 3, 2)], 1: [DrawnTask(1, 1, 2), DrawnTask(2, 2, 2)]}
    for rank, tasks in expected.items():
        become(monkeypatch, rank, 2)
        assert own_share(Draw([0, 1, 2, 3], [8, 2, 2, 2]), workload) == tasks
    # With equal numbers, 30 goes to rank 0, 20 and 20 to rank 1, 10 to rank 0.
    become(monkeypatch, 0, 2)
    assert own_share(Draw([0, 1, 2, 3], [2] * 4), workload) == [DrawnTask(0, 0, 2), DrawnTask(1, 1, 2)]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.data())
def test_equal_numbers_of_rollouts_are_shared_out_by_tokens_alone(
    world_size: int, per_rank: int, count: int, data: st.DataObject
) -> None:
    size = world_size * per_rank
    tokens = data.draw(st.lists(st.floats(0, 1e6, width=32), min_size=size, max_size=size))
    workload = Workload(size, NO_GROUPS)
    workload.observe(dict(enumerate(tokens)))
    shares = equal_shares(workload.expected(range(size)), world_size)
    for rank, share in enumerate(shares):
        with pytest.MonkeyPatch.context() as patch:
            become(patch, rank, world_size)
            mine = own_share(Draw(list(range(size)), [count] * size), workload)
        assert mine == [DrawnTask(place, place, count) for place in share]


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_ranks_cover_what_was_drawn(world_size: int, per_rank: int, data: st.DataObject) -> None:
    size = world_size * per_rank
    counts = data.draw(st.lists(st.integers(1, 64), min_size=size, max_size=size))
    drawn, shares = list(range(size))[::-1], []
    for rank in range(world_size):
        with pytest.MonkeyPatch.context() as patch:
            become(patch, rank, world_size)
            shares.append(own_share(Draw(drawn, counts), Workload(size, NO_GROUPS)))
    assert {len(share) for share in shares} == {per_rank}
    everything = sorted(task for share in shares for task in share)
    assert everything == [DrawnTask(place, drawn[place], counts[place]) for place in range(size)]


def test_a_share_stays_as_it_was_drawn_whatever_is_seen_before_its_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become(monkeypatch, 0, 2)
    monkeypatch.setattr(ranks, "gathered", lambda mine: [mine])
    data, resumed = (allocating(FixedAllocation(), num_tasks=4) for _ in range(2))  # each batch is of all four
    first = data.select(ahead=True)
    share = data.share(first)
    data.select(ahead=True)
    served = iter(data.train_dataloader())
    assert next(served).positions == [task.place for task in share]
    lengths = {place: 10.0 + 1000.0 * (place in (share[0].place, share[1].place)) for place in range(4)}
    seen = {first[place]: tokens for place, tokens in lengths.items()}
    data.observe(Evidence(np.array(first), np.zeros(4), np.ones(4)), seen)
    torch.save(data.state_dict(), tmp_path / "data.ckpt")
    before = [(task.place, task.index) for task in share]  # all tasks were alike to it
    assert [place for place, _ in before] == data_positions(data)
    resumed.load_state_dict(torch.load(tmp_path / "data.ckpt", weights_only=True))
    assert data_positions(resumed) == [place for place, _ in before]
    again = resumed.workload.expected(resumed.draws.first.indices)
    assert equal_shares(again, 2)[0] != data_positions(resumed)  # it would be another one now


def data_positions(data: TaskDataModule) -> list[int]:
    """The places of this rank's tasks in the first draw."""
    return [task.place for task in data.share(data.draws.first.indices)]


# --- a resumed run --------------------------------------------------------------------------------------------------


class Restless(Allocation):
    """Allocates others each time it is asked."""

    asked = 0

    def allocate(self, alpha: Any, beta: Any, num_generations: int) -> npt.NDArray[np.int64]:
        self.asked += 1
        return np.full(len(alpha), num_generations - self.asked)


def test_a_resumed_run_rolls_out_what_was_drawn_ahead(tmp_path: Path) -> None:
    ended, resumed = allocating(Restless()), allocating(Restless())
    observe(ended, ended.select())
    drawn = ended.select(ahead=True)
    torch.save(ended.state_dict(), tmp_path / "data.ckpt")
    resumed.load_state_dict(torch.load(tmp_path / "data.ckpt", weights_only=True))
    batch = next(iter(resumed.train_dataloader()))
    assert (batch.indices, batch.counts) == (drawn, [2] * 4)


@pytest.mark.parametrize("saved_with", [None, 5])
def test_a_draw_of_an_earlier_version_or_another_number_gets_the_present_number(saved_with: int | None) -> None:
    """Where too many rollouts have ended a run, fewer are the remedy."""
    ended, resumed = allocating(num_generations=saved_with or 4), allocating()
    drawn = ended.select()
    state = ended.state_dict()
    if saved_with is None:
        del state["drawn_counts"], state["num_generations"]
    resumed.load_state_dict(state)
    assert (resumed.draws.first.indices, resumed.draws.first.counts) == (drawn, [4] * 4)
    assert next(iter(resumed.train_dataloader())).counts == [4] * 4


def test_counts_are_plain_numbers() -> None:
    selector = UniformSelector()
    selector.setup(Numbered().load().features())
    counts = allocated(FixedAllocation(), selector, np.arange(3), 4)
    assert counts == [4, 4, 4]
    assert {type(count) for count in counts} == {int}


def test_the_belief_is_what_the_selector_forecasts_and_flat_without_one() -> None:
    indices = np.array([3, 1, 4])
    with_belief, without = datamodule().selector, datamodule(UniformSelector()).selector
    with_belief.observe(Evidence(indices, np.array([8.0, 0.0, 2.0]), np.full(3, 8.0)))
    expected = with_belief.forecast(indices)
    assert expected is not None
    for found, wanted in zip(believed(with_belief, indices), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    alpha, beta = believed(without, indices)
    assert alpha.tolist() == beta.tolist() == [1, 1, 1]


@pytest.mark.parametrize("allocation", [KnapsackAllocation(), VarianceAllocation()])
def test_without_a_belief_all_tasks_get_as_many(allocation: Allocation) -> None:
    data = allocating(allocation)
    data.select()
    assert data.draws.first.counts == [4] * 4


def test_a_belief_divides_the_same_rollouts_otherwise() -> None:
    data = allocating(KnapsackAllocation(), selector=bots())
    data.selector.observe(Evidence(np.arange(10), np.where(np.arange(10) % 2, 8.0, 0.5), np.full(10, 8.0)))
    data.select()
    by_index = dict(zip(data.draws.first.indices, data.draws.first.counts, strict=True))
    assert sum(by_index.values()) == 16
    assert len(set(by_index.values())) > 1


def test_only_allocations_that_look_at_beliefs_have_them_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    selector, asked = bots(), list[int]()
    selector.setup(Numbered(12).load().features())
    forecast = selector.forecast
    monkeypatch.setattr(selector, "forecast", lambda indices: asked.append(len(indices)) or forecast(indices))
    allocated(FixedAllocation(), selector, np.arange(4), 4)
    assert asked == []
    assert sum(allocated(KnapsackAllocation(), selector, np.arange(4), 4)) == 16
    assert asked == [4]
