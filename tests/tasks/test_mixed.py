"""Several sources in one pool."""

# Shapes: N tasks.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bots_lightning.tasks import MixedTasks, TaskPool, TaskSource

NAN = float("nan")
CHAT = [{"role": "user", "content": "1+1="}]


class Rows(TaskSource):
    """A pool of these rows."""

    def __init__(self, *rows: dict[str, Any], references: tuple[str, ...] = ()) -> None:
        self.rows, self.references = rows, references

    def load(self) -> TaskPool:
        return TaskPool.from_rows([{"prompt": "p", "answer": "a"} | row for row in self.rows], self.references)


def mixed(**sources: TaskSource) -> TaskPool:
    return MixedTasks(sources).load()


def test_tasks_follow_each_other_with_all_columns_and_references() -> None:
    pool = mixed(
        sums=Rows({"id": "a", "weak": 0.25, "level": 1}, {"id": "b", "weak": 0.5, "level": 2}, references=("weak",)),
        logic=Rows({"id": "c", "strong": 1, "level": 0.5, "weak": 0.75}, references=("strong", "weak")),
    )
    assert (pool.ids, pool.references, pool.name) == (["a", "b", "c"], ("weak", "strong"), "sums+logic")
    np.testing.assert_array_equal(pool.features().reference("weak"), [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(pool.features().reference("strong"), [NAN, NAN, 1])
    assert [task.columns["level"] for task in pool] == [1, 2, 0.5]


def test_the_source_names_the_group_of_tasks_that_have_none() -> None:
    pool = mixed(
        x=Rows({"id": "a", "group": "g"}, {"id": "b", "group": None}, {"id": "c", "group": ""}), y=Rows({"id": "d"})
    )
    assert pool.groups.tolist() == ["g", "x", "x", "y"]


def test_messages_with_other_fields_go_together() -> None:
    pool = mixed(x=Rows({"id": "a", "prompt": CHAT}), y=Rows({"id": "b", "prompt": [CHAT[0] | {"name": "Ada"}]}))
    assert [task.prompt[0]["content"] for task in pool] == ["1+1=", "1+1="]  # type: ignore[index]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Rows({"id": "c"}, {"id": "b"}), r"1 tasks of the source 'y' are also in another source: 'b' in 'x'\. Remove"),
        (Rows({"id": "c", "prompt": CHAT}), r"the prompts of \['x'\] are strings, those of \['y'\] .*Set `chat: true`"),
        (Rows({"id": "c", "level": "hard"}), r"columns of the source 'y' do not fit those of the source 'x' .*level"),
    ],
)
def test_sources_that_do_not_go_together_are_named(second: TaskSource, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed(x=Rows({"id": "a", "level": 1}, {"id": "b", "level": 2}), y=second)


def test_no_sources_are_no_pool() -> None:
    with pytest.raises(ValueError, match="sources is empty; expected at least one"):
        MixedTasks({})
