"""A run goes on after answers of its pool were corrected, and says which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from numbered_tasks import bots, datamodule, run

from bots_lightning.data import TaskDataModule
from bots_lightning.selection import TaskSelector, UniformSelector
from bots_lightning.tasks import TaskPool, TaskSource, task_id


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
