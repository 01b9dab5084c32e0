"""The data module: lazy draws, strict alternation, and a share for every rank."""

# Shapes: N tasks in the pool, B tasks per step over all ranks.

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered_tasks import Numbered, assert_same, bots, datamodule, draw_state, outcome, run

from bots_lightning.beliefs import BetaBelief, Evidence
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.selection import ThompsonSelector, UniformSelector


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one of two ranks."""

    def become(rank: int, world_size: int = 2) -> None:
        monkeypatch.setattr("bots_lightning.data.ranks.world_size", lambda: world_size)
        monkeypatch.setattr("bots_lightning.data.ranks.rank", lambda: rank)

    return become


# --- one step -------------------------------------------------------------------------------------------------------


def test_a_second_draw_before_the_evidence_is_an_error_and_draws_nothing() -> None:
    data = datamodule()
    batch = data.select()
    before, counts = draw_state(data), data.selection_counts.copy()
    with pytest.raises(RuntimeError, match=r"before it saw the evidence.*Call datamodule\.observe\(evidence\)"):
        data.select()
    assert draw_state(data) == before
    np.testing.assert_array_equal(data.selection_counts, counts)
    data.observe(outcome(batch))
    assert len(data.select()) == 4


def test_the_loader_draws_one_batch_when_it_is_asked_for_one() -> None:
    data = datamodule(steps_per_epoch=5)
    batches = iter(data.train_dataloader())
    for step in range(1, 4):
        batch: TaskBatch = next(batches)
        assert data.selection_counts.sum() == 4 * step
        data.observe(outcome(batch.indices))
    next(batches)
    with pytest.raises(RuntimeError, match="before it saw the evidence"):
        next(batches)


def test_building_loaders_draws_nothing() -> None:
    data = datamodule(evaluation={"heldout": Numbered(3)})
    before = draw_state(data)
    loaders = [data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader(), data.predict_dataloader()]
    iter(loaders[0])
    for loader in loaders[1:]:
        list(loader)
    assert draw_state(data) == before
    assert data.selection_counts.sum() == 0


def test_a_batch_holds_the_tasks_of_its_indices() -> None:
    data = datamodule()
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == len(set(batch.indices)) == 4
    assert [task.id for task in batch.tasks] == [f"t{i}" for i in batch.indices]
    assert [task.answer for task in batch.tasks] == [str(i) for i in batch.indices]


def test_selections_are_counted_by_task() -> None:
    data = datamodule()
    batches = run(data, range(12))
    expected = np.bincount([i for batch in batches for i in batch], minlength=10)
    np.testing.assert_array_equal(data.selection_counts, expected)


def test_the_selector_learns_what_was_observed() -> None:
    data = datamodule(ThompsonSelector(BetaBelief(forgetting=0.0, implicit_weight=0.0)))
    batch = data.select()
    data.observe(Evidence(np.array(batch), [8, 0, 3, 5], [8, 8, 8, 8]))
    belief = data.selector.belief
    np.testing.assert_array_equal(belief.alpha[batch], [9, 1, 4, 6])
    np.testing.assert_array_equal(belief.beta[batch], [1, 9, 6, 4])


def test_seconds_are_those_of_the_last_select_and_observe(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 10.5, 20.0, 22.0])
    data = datamodule()
    monkeypatch.setattr("bots_lightning.data.datamodule.time.perf_counter", lambda: next(ticks))
    data.observe(outcome(data.select()))
    assert (data.select_seconds, data.observe_seconds) == (0.5, 2.0)


def test_equal_seeds_draw_alike() -> None:
    assert run(datamodule(seed=3), range(8)) == run(datamodule(seed=3), range(8))
    assert run(datamodule(seed=3), range(8)) != run(datamodule(seed=4), range(8))


# --- loaders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_tasks", "batch_size", "given", "steps"), [(10, 4, None, 3), (8, 4, None, 2), (4, 4, None, 1), (10, 4, 7, 7)]
)
def test_an_epoch_has_the_steps_given_or_covers_the_pool(
    num_tasks: int, batch_size: int, given: int | None, steps: int
) -> None:
    data = datamodule(UniformSelector(), num_tasks, batch_size=batch_size, steps_per_epoch=given)
    loader = data.train_dataloader()
    assert len(loader) == steps
    drawn = 0
    for batch in loader:
        data.observe(outcome(batch.indices))
        drawn += 1
    assert drawn == steps
    if given is None:
        assert (data.selection_counts > 0).all()


@pytest.mark.parametrize("eval_batch_size", [1, 3, 7, 100])
def test_held_out_pools_are_read_from_first_to_last_in_the_order_given(eval_batch_size: int) -> None:
    held_out = {"second": Numbered(7), "first": Numbered(2)}
    data = datamodule(evaluation=held_out, eval_batch_size=eval_batch_size)
    for loader, num_tasks in zip(data.val_dataloader(), (7, 2), strict=True):
        batches = list(loader)
        assert [i for batch in batches for i in batch.indices] == list(range(num_tasks))
        assert len(batches) == len(loader) == -(-num_tasks // eval_batch_size)
    assert list(data.eval_pools) == ["second", "first"]


def test_predict_reads_the_training_pool() -> None:
    assert [task.id for batch in datamodule().predict_dataloader() for task in batch.tasks] == [
        f"t{i}" for i in range(10)
    ]


def test_a_batch_stays_where_it_is() -> None:
    batch = TaskBatch([0], [], [0], [1])
    assert datamodule().transfer_batch_to_device(batch, torch.device("meta"), 0) is batch


def test_pools_are_loaded_once() -> None:
    data = datamodule(evaluation={"heldout": Numbered(3)})
    run(data, range(2))
    data.setup("fit")
    data.setup("validate")
    assert data.source.loads == data.evaluation["heldout"].loads == 1
    assert data.selection_counts.sum() == 8


def test_loaders_before_setup_are_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"call setup\(\) before"):
        TaskDataModule(Numbered(), bots()).train_dataloader()


def test_a_batch_larger_than_the_pool_is_refused_at_setup() -> None:
    data = TaskDataModule(Numbered(10), bots(), batch_size=11)
    with pytest.raises(ValueError, match=r"batch_size=11 does not fit the pool of 10 tasks.*Lower data\.batch_size"):
        data.setup()


# --- several ranks --------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.integers(1, 4), st.integers(1, 3))
def test_the_ranks_share_each_batch_and_each_held_out_pool(two_ranks: Any, world_size: int, per_rank: int) -> None:
    two_ranks(0, 1)
    options: dict[str, Any] = {"batch_size": world_size * per_rank, "num_tasks": 13}
    whole = datamodule(**options).select()
    shares, evaluated = [], []
    for rank in range(world_size):
        two_ranks(rank, world_size)
        data = datamodule(**options, evaluation={"heldout": Numbered(7)}, eval_batch_size=2)
        shares.append(next(iter(data.train_dataloader())).indices)
        evaluated.append([i for batch in data.val_dataloader()[0] for i in batch.indices])
    assert {len(share) for share in shares} == {per_rank}
    assert sorted(i for share in shares for i in share) == sorted(whole)
    assert sorted(i for share in evaluated for i in share) == list(range(7))


def test_a_batch_that_the_ranks_cannot_share_evenly_is_refused(two_ranks: Any) -> None:
    two_ranks(0, 3)
    with pytest.raises(ValueError, match=r"batch_size=4 tasks do not divide evenly over 3 ranks; choose a multiple"):
        datamodule().train_dataloader()


def test_two_ranks_learn_what_one_alone_would(monkeypatch: pytest.MonkeyPatch) -> None:
    here, meeting, messages = threading.local(), threading.Barrier(2, timeout=10), [b""] * 2

    def all_gather_object(everyones: list[Any], mine: Any) -> None:
        messages[here.rank] = pickle.dumps(mine)
        meeting.wait()
        everyones[:] = [pickle.loads(message) for message in messages]
        meeting.wait()

    def rank(number: int) -> tuple[list[list[int]], dict[str, Any]]:
        here.rank = number
        data, shares = datamodule(seed=3, steps_per_epoch=5), []
        for step, batch in enumerate(data.train_dataloader()):
            shares.append(batch.indices)
            data.observe(outcome(batch.indices, step))
        return shares, data.state_dict()

    alone = datamodule(seed=3)
    batches = run(alone, range(5))
    monkeypatch.setattr("bots_lightning.data.ranks.world_size", lambda: 2)
    monkeypatch.setattr("bots_lightning.data.ranks.rank", lambda: here.rank)
    monkeypatch.setattr("bots_lightning.data.ranks.dist.all_gather_object", all_gather_object)
    with ThreadPoolExecutor(2) as threads:
        ranks = list(threads.map(rank, range(2)))
    for number, (shares, state) in enumerate(ranks):
        assert shares == [batch[number::2] for batch in batches]
        assert_same(state | {"workload": None}, alone.state_dict() | {"workload": None})
