"""Tasks that are added while a run goes on are served, counted and saved."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numbered_tasks import assert_same, bots, datamodule, outcome, run

from bots_lightning.selection import UniformSelector
from bots_lightning.tasks import TaskPool


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
