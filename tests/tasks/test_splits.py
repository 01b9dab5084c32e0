"""Training and held-out splits are disjoint, cover everything, and depend only on the tasks' own text."""

# Shapes: N tasks.

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.tasks import SplitTasks, TaskPool, TaskSource
from bots_lightning.tasks.splits import question


class Given(TaskSource):
    """A pool of these rows."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def load(self) -> TaskPool:
        return TaskPool.from_rows([row | {"answer": "a"} for row in self.rows], name="given")


def numbered(num_tasks: int) -> list[dict[str, Any]]:
    return [{"id": f"t{i}", "prompt": f"{i}?"} for i in range(num_tasks)]


def split_of(rows: list[dict[str, Any]], split: Any, **options: Any) -> set[str]:
    """The ids of one split, empty if it has no tasks."""
    try:
        return set(SplitTasks(Given(rows), split, **options).load().ids)
    except ValueError as error:
        if "leaves none" not in str(error):
            raise
        return set()


BY = pytest.mark.parametrize("by", ["prompt", "id"])


@BY
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_splits_are_disjoint_and_cover_the_source(by: str, fraction: float) -> None:
    rows = numbered(1000)
    train, heldout = (split_of(rows, split, by=by, heldout_fraction=fraction) for split in ("train", "heldout"))
    assert not train & heldout
    assert train | heldout == {row["id"] for row in rows}
    assert abs(len(heldout) - 1000 * fraction) < 4 * (1000 * fraction * (1 - fraction)) ** 0.5  # four deviations


@BY
@given(st.permutations(numbered(40)), st.integers(1, 40))
def test_the_split_of_a_task_does_not_depend_on_the_others(by: str, shuffled: list[Any], size: int) -> None:
    heldout = split_of(numbered(40), "heldout", by=by, heldout_fraction=0.3)
    some = {row["id"] for row in shuffled[:size]}
    assert split_of(shuffled[:size], "heldout", by=by, heldout_fraction=0.3) == heldout & some
    assert split_of(shuffled[:size], "train", by=by, heldout_fraction=0.3) == some - heldout


def test_a_split_keeps_the_order_of_the_source() -> None:
    ids = SplitTasks(Given(numbered(100)), heldout_fraction=0.5).load().ids
    assert ids == sorted(ids, key=lambda name: int(name[1:]))


def test_what_is_held_out_stays_so_at_a_larger_fraction_and_another_salt_is_another_division() -> None:
    small, large = (split_of(numbered(500), "heldout", heldout_fraction=f) for f in (0.1, 0.4))
    assert small < large
    salted = split_of(numbered(500), "heldout", heldout_fraction=0.4, salt="x")
    assert 0 < len(salted & large) < len(large)


def test_a_division_never_changes() -> None:
    """sha256 of a line feed and the prompt; its first 6 bytes below a fifth of their range."""
    assert split_of(numbered(30), "heldout", heldout_fraction=0.2) == {"t12", "t22", "t24", "t27"}


def test_equal_questions_under_different_ids_get_the_same_split() -> None:
    """By prompt, the default; by id, half of the pairs are."""
    rows = numbered(200)
    chats = [
        {"id": f"u{i}", "prompt": [{"role": "system", "content": str(i)}, {"role": "user", "content": f" {i}? \n"}]}
        for i in range(200)
    ]
    for by, leaks in (("prompt", False), ("id", True)):
        strings = {name[1:] for name in split_of(rows, "heldout", heldout_fraction=0.5, by=by)}
        others = {name[1:] for name in split_of(chats, "heldout", heldout_fraction=0.5, by=by)}
        assert (strings != others) == leaks


def test_a_question_is_what_is_asked() -> None:
    assert question("a \n b") == "a b"
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "user", "content": "b "}]
    assert question(chat) == "a b"


def test_an_empty_split_is_refused() -> None:
    rows = numbered(2)
    full, empty = ("train", "heldout") if len(split_of(rows, "train")) == 2 else ("heldout", "train")
    assert split_of(rows, full) == {"t0", "t1"}
    with pytest.raises(ValueError, match=rf"heldout_fraction=0.1 of 2 tasks leaves none for split='{empty}'\. Choose"):
        SplitTasks(Given(rows), empty).load()  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_fraction_that_leaves_a_split_empty_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0 and less than 1"):
        SplitTasks(Given(numbered(2)), heldout_fraction=fraction)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split='test'; expected one of 'train', 'heldout'"),
        ({"by": "answer"}, "by='answer'; expected one of 'prompt', 'id'"),
    ],
)
def test_an_unknown_split_or_key_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitTasks(Given(numbered(2)), **options)
