"""The data module: lazy draws, strict alternation, a share for every rank, and a state that survives a checkpoint."""

# Shapes: N tasks in the pool, B tasks per step over all ranks.

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bots_lightning.beliefs import BetaBelief, Evidence, ReferenceInterpolation
from bots_lightning.data import TaskBatch, TaskDataModule
from bots_lightning.selection import TaskSelector, ThompsonSelector, UniformSelector
from bots_lightning.tasks import TaskPool, TaskSource, task_id


class Numbered(TaskSource):
    """Tasks 0 to N − 1; counts how often it was loaded."""

    def __init__(self, num_tasks: int = 10) -> None:
        self.num_tasks, self.loads = num_tasks, 0

    def load(self) -> TaskPool:
        self.loads += 1
        rows = [
            {"id": f"t{i}", "prompt": f"{i}?", "answer": str(i), "weak": i / 40, "strong": 0.5 + i / 40}
            for i in range(self.num_tasks)
        ]
        return TaskPool.from_rows(rows, references=["weak", "strong"])


def bots() -> ThompsonSelector:
    return ThompsonSelector(BetaBelief(implicit=ReferenceInterpolation("weak", "strong")))


def datamodule(selector: TaskSelector | None = None, num_tasks: int = 10, **options: Any) -> TaskDataModule:
    data = TaskDataModule(Numbered(num_tasks), selector or bots(), **{"batch_size": 4} | options)
    data.setup()
    return data


def outcome(indices: list[int], step: int = 0) -> Evidence:
    """Success counts out of 8 that depend on task and step alone."""
    return Evidence(np.array(indices), [(3 * i + step) % 9 for i in indices], np.full(len(indices), 8.0))


def run(data: TaskDataModule, steps: range) -> list[list[int]]:
    batches = []
    for step in steps:
        batches.append(data.select())
        data.observe(outcome(batches[-1], step))
    return batches


def draw_state(data: TaskDataModule) -> str:
    return data.selector.state_dict()["rng"]


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

    def all_gather_object(parts: list[Any], part: Any) -> None:
        messages[here.rank] = pickle.dumps(part)
        meeting.wait()
        parts[:] = [pickle.loads(message) for message in messages]
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


def test_a_draw_whose_evidence_never_came_is_made_up_for_after_a_resume() -> None:
    undisturbed, ended, resumed = (datamodule(seed=3, steps_per_epoch=3) for _ in range(3))
    expected = run(undisturbed, range(5))
    run(ended, range(2))
    assert ended.select() == expected[2]
    resumed.load_state_dict(ended.state_dict())
    draws = []
    for step, batch in enumerate(resumed.train_dataloader(), start=2):
        draws.append(batch.indices)
        resumed.observe(outcome(batch.indices, step))
    assert draws == expected[2:]
    assert resumed.selection_counts.tolist() == undisturbed.selection_counts.tolist()


# --- state ----------------------------------------------------------------------------------------------------------


def assert_same(one: Any, other: Any) -> None:
    """The same nested state, to the bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("selector", [bots, UniformSelector])
def test_a_resumed_data_module_draws_what_the_uninterrupted_one_draws(selector: Any, tmp_path: Path) -> None:
    uninterrupted, resumed = datamodule(selector(), seed=5), datamodule(selector(), seed=77)
    run(uninterrupted, range(7))
    run(resumed, range(3))  # all of this is to be overwritten
    torch.save(uninterrupted.state_dict(), tmp_path / "data.ckpt")
    resumed.load_state_dict(torch.load(tmp_path / "data.ckpt", weights_only=True))
    np.testing.assert_array_equal(resumed.selection_counts, uninterrupted.selection_counts)
    assert run(resumed, range(7, 20)) == run(uninterrupted, range(7, 20))
    np.testing.assert_array_equal(resumed.selection_counts, uninterrupted.selection_counts)
    assert_same(resumed.state_dict(), uninterrupted.state_dict())


def test_a_saved_state_is_a_copy(tmp_path: Path) -> None:
    data, other = datamodule(seed=5), datamodule(seed=6)
    run(data, range(4))
    state = data.state_dict()
    torch.save(state, tmp_path / "then.ckpt")
    other.load_state_dict(state)
    run(data, range(4, 9))
    run(other, range(4, 9))
    assert_same(state, torch.load(tmp_path / "then.ckpt", weights_only=True))


def test_a_draw_that_was_never_observed_does_not_block_a_resumed_run() -> None:
    data = datamodule()
    state = data.state_dict()
    lost = data.select()
    data.load_state_dict(state)
    assert data.select() == lost


def test_the_state_of_another_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="Resume with the pool"):
        datamodule(num_tasks=11).load_state_dict(datamodule(num_tasks=10).state_dict())


# --- a pool that grows ----------------------------------------------------------------------------------------------


def more_tasks(first: int = 10, count: int = 4, rates: bool = True) -> TaskPool:
    """Tasks behind those of `Numbered`; without rates, the columns are missing too."""
    rows = [
        {"id": f"t{i}", "prompt": f"{i}?", "answer": str(i)} | ({"weak": 0.3, "strong": 0.7} if rates else {})
        for i in range(first, first + count)
    ]
    return TaskPool.from_rows(rows, references=["weak", "strong"] if rates else [])


@pytest.mark.parametrize("selector", [bots, UniformSelector])
def test_added_tasks_are_served_and_counted(selector: Any) -> None:
    data = datamodule(selector(), seed=2)
    run(data, range(5))
    counts = data.selection_counts.copy()
    data.add_tasks(more_tasks())
    assert data.require_pool().ids == [f"t{i}" for i in range(14)]
    np.testing.assert_array_equal(data.selection_counts, [*counts, 0, 0, 0, 0])
    assert data.selector.num_tasks == 14
    for batch in data.train_dataloader():
        assert [task.id for task in batch.tasks] == [f"t{i}" for i in batch.indices]
        data.observe(outcome(batch.indices))
    run(data, range(5, 40))
    assert data.selection_counts.sum() == 4 * (5 + 3 + 35)  # an epoch is still that of ten tasks
    assert data.selection_counts[10:].min() > 0


def test_tasks_are_not_added_between_select_and_observe() -> None:
    data, untouched = datamodule(seed=1), datamodule(seed=1)
    batch = data.select()
    with pytest.raises(RuntimeError, match=r"between select and observe\. Add them between two training steps"):
        data.add_tasks(more_tasks())
    data.observe(outcome(batch))
    run(untouched, range(1))
    assert run(data, range(1, 6)) == run(untouched, range(1, 6))
    data.add_tasks(more_tasks())
    assert len(data.require_pool()) == 14


def test_a_task_that_is_there_already_is_not_added() -> None:
    data, untouched = datamodule(seed=1), datamodule(seed=1)
    with pytest.raises(ValueError, match="'t9'"):
        data.add_tasks(more_tasks(first=9))
    assert run(data, range(6)) == run(untouched, range(6))
    assert_same(data.state_dict(), untouched.state_dict())


@pytest.mark.parametrize("rates", [True, False])
@pytest.mark.parametrize("selector", [bots, UniformSelector])
def test_added_tasks_survive_a_resume_into_a_fresh_data_module(selector: Any, rates: bool, tmp_path: Path) -> None:
    uninterrupted, resumed = datamodule(selector(), seed=5), datamodule(selector(), seed=77)
    run(uninterrupted, range(3))
    uninterrupted.add_tasks(more_tasks(rates=rates))
    run(uninterrupted, range(3, 6))
    uninterrupted.add_tasks(more_tasks(first=14, count=1, rates=rates))
    run(uninterrupted, range(6, 8))
    torch.save(uninterrupted.state_dict(), tmp_path / "data.ckpt")
    for _ in range(2):  # also into one that has them already
        resumed.load_state_dict(torch.load(tmp_path / "data.ckpt", weights_only=True))
        assert len(resumed.require_pool()) == 15
    assert resumed.require_pool().fingerprint == uninterrupted.require_pool().fingerprint
    assert resumed.require_pool()[14] == uninterrupted.require_pool()[14]
    assert run(resumed, range(8, 18)) == run(uninterrupted, range(8, 18))
    assert_same(resumed.state_dict(), uninterrupted.state_dict())


def test_the_forecast_is_what_was_believed_before_the_evidence() -> None:
    """Task 3, listed twice, comes before task 7 and as one row; Beta(1, 1), then λ = 0 adds the counts."""
    data = datamodule(ThompsonSelector(BetaBelief(forgetting=0.0)))
    assert data.forecasts == []
    rows = Evidence(np.array([7, 3, 3]), np.array([8.0, 1.0, 2.0]), np.array([8.0, 4.0, 4.0]))
    for alpha, beta in (([1, 1], [1, 1]), ([1 + 3, 1 + 8], [1 + 5, 1])):
        data.select()
        data.observe(rows)
        forecast = data.forecasts[-1]
        assert forecast.evidence.indices.tolist() == [3, 7]
        assert forecast.evidence.successes.tolist() == [3, 8]
        assert (forecast.alpha.tolist(), forecast.beta.tolist()) == (alpha, beta)
        assert forecast.dispersion.tolist() == [1, 1]


def test_the_forecast_of_partial_rewards_has_the_dispersion_before_the_evidence() -> None:
    """0.25 and 0.75: W = 1/8, F = 1/2, φ = (1 + 1/8)/(1 + 1/2 − 3/8/2) afterwards, 1 before."""
    data = datamodule(ThompsonSelector(BetaBelief(forgetting=0.0)))
    for dispersion in (1.0, (9 / 8) / (21 / 16)):
        data.select()
        data.observe(Evidence.from_rewards(np.array([2]), np.array([0.25, 0.75]), np.array([2])))
        assert data.forecasts[-1].dispersion[0] == pytest.approx(dispersion)


def test_there_is_no_forecast_without_a_belief_or_without_rollouts() -> None:
    data = datamodule(UniformSelector())
    data.observe(outcome(data.select()))
    assert data.forecasts == []
    data = datamodule()
    data.select()
    data.observe(Evidence(np.array([0]), np.zeros(1), np.zeros(1)))
    assert data.forecasts == []


def test_forecasts_are_those_of_one_iteration() -> None:
    """Further batches of an iteration, as of dynamic sampling, add theirs; the loader's next batch clears them."""
    data = datamodule()
    for batch in data.train_dataloader():
        data.observe(outcome(batch.indices))
        data.observe(outcome(data.select()))
        assert len(data.forecasts) == 2


def test_tasks_added_while_a_loader_is_iterated_are_served_by_it() -> None:
    data, seen = datamodule(UniformSelector(), seed=3, steps_per_epoch=12), set[str]()
    for step, batch in enumerate(data.train_dataloader()):
        data.observe(outcome(batch.indices))
        seen |= {task.id for task in batch.tasks}
        if step == 1:
            data.add_tasks(more_tasks())
    assert seen == {f"t{i}" for i in range(14)}


def test_an_epoch_stays_as_long_as_it_was_when_tasks_are_added(tmp_path: Path) -> None:
    """Also in a resumed run, whose learning rate would otherwise be another."""
    data, resumed = datamodule(), datamodule()
    steps = len(data.train_dataloader())
    data.add_tasks(more_tasks(count=40))
    resumed.load_state_dict(data.state_dict())
    assert len(data.train_dataloader()) == len(resumed.train_dataloader()) == steps


def test_added_columns_keep_their_types_over_a_resume() -> None:
    """Dates and dictionaries too, which JSON would lose."""
    data, resumed = datamodule(), datamodule()
    table = more_tasks().table.append_column("day", pa.array([date(2026, 1, 1)] * 4))
    table = table.append_column("kind", pa.array(["a", "b", "a", "b"]).dictionary_encode())
    data.add_tasks(TaskPool(table, ["weak", "strong"]))
    resumed.load_state_dict(data.state_dict())
    assert resumed.require_pool().table.schema == data.require_pool().table.schema
    assert resumed.require_pool()[12].columns["day"] == date(2026, 1, 1)


# --- answers that are corrected ---------------------------------------------------------------------------------------


class Unnamed(TaskSource):
    """Tasks without ids of their own, two of them with one prompt; some answers and pass rates may be others."""

    def __init__(self, rates: dict[int, float | None] | None = None, **answers: str) -> None:
        self.answers, self.rates = answers, rates or {}

    def load(self) -> TaskPool:
        prompts = ["a", "b", "c", "d", "twice", "twice"]
        answers = [self.answers.get(f"t{i}", str(i)) for i in range(6)]
        rows = [
            {"id": task_id(prompt, answer), "prompt": prompt, "answer": answer, "weak": self.rates.get(i, 0.25)}
            for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
        return TaskPool.from_rows([row | {"strong": 0.75} for row in rows], ["weak", "strong"])


def unnamed(selector: TaskSelector | None = None, **changes: Any) -> TaskDataModule:
    data = TaskDataModule(Unnamed(**changes), selector or bots(), 2)
    data.setup()
    return data


def warnings_of(data: TaskDataModule, state: Any, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    data.load_state_dict(state)
    return [record.getMessage() for record in caplog.records if record.name == "bots_lightning.data.corrections"]


@pytest.mark.parametrize("selector", [bots, UniformSelector])
def test_a_run_goes_on_when_answers_are_corrected_and_says_which(
    selector: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, same = unnamed(selector()), unnamed(selector())
    run(before, range(5))
    torch.save(before.state_dict(), tmp_path / "data.ckpt")
    saved = torch.load(tmp_path / "data.ckpt", weights_only=True)
    assert warnings_of(same, saved, caplog) == []
    corrected = unnamed(selector(), t1="right", t4="right too")
    assert corrected.require_pool().fingerprint != before.require_pool().fingerprint
    (said,) = warnings_of(corrected, saved, caplog)
    named = [f"task {task_id('b', 'right')!r} (row 1)", f"task {task_id('twice', 'right too')!r} (row 4)"]
    assert said.startswith(f"2 answers are not those of the checkpoint: {', '.join(named)}. The run goes on")
    assert run(corrected, range(5, 20)) == run(before, range(5, 20))
    assert warnings_of(unnamed(selector(), t1="right", t4="right too"), corrected.state_dict(), caplog) == []


def test_the_pass_rate_of_a_corrected_answer_may_be_another(caplog: pytest.LogCaptureFixture) -> None:
    state = unnamed().state_dict()
    assert len(warnings_of(unnamed(t1="right", rates={1: None}), state, caplog)) == 1
    with pytest.raises(ValueError, match="Resume with the pool"):
        unnamed(t1="right", rates={2: None}).load_state_dict(state)
    with pytest.raises(ValueError, match="Resume with the pool"):
        unnamed(rates={1: None}).load_state_dict(state)


def test_another_prompt_is_another_pool() -> None:
    data = unnamed()
    state = data.state_dict()
    state["contents"]["prompts"] = "0" * 16
    with pytest.raises(ValueError, match="Resume with the pool"):
        unnamed(t1="right").load_state_dict(state)


def test_tasks_with_ids_tell_their_corrected_answers_too(caplog: pytest.LogCaptureFixture) -> None:
    state = datamodule().state_dict()
    state["contents"]["answers"][7] += 1
    (said,) = warnings_of(datamodule(), state, caplog)
    assert said.startswith("1 answers are not those of the checkpoint: task 't7' (row 7).")


def test_the_state_of_an_earlier_version_is_restored_by_its_fingerprint() -> None:
    state = datamodule().state_dict()
    del state["contents"]
    datamodule().load_state_dict(state)
    with pytest.raises(ValueError, match="Resume with the pool"):
        datamodule(num_tasks=11).load_state_dict(state)
