# Shapes: N tasks in the pool, K groups.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.selection import chunks
from bots_lightning.selection.chunks import Eligible, smallest, smallest_of_pool, smallest_with_random_ties


@st.composite
def pools(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, int]:
    """Scores with ties, groups, blocked tasks, slots of groups, how many each is asked for, and the size of a chunk."""
    n = draw(st.integers(1, 60))
    scores = draw(st.lists(st.one_of(st.integers(0, 5), st.floats(-9, 9)), min_size=n, max_size=n))
    codes = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    blocked = draw(st.lists(st.integers(0, n - 1), max_size=n))
    slots = draw(st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=3, max_size=3)))
    count = 1 if slots is None else 3
    return (
        np.array(scores, dtype=np.float64),
        np.array(codes, dtype=np.uint8),
        np.array(blocked, dtype=np.int64),
        None if slots is None else np.array(slots, dtype=np.uint8),
        np.array(draw(st.lists(st.integers(0, n), min_size=count, max_size=count))),
        draw(st.integers(1, n + 1)),
    )


@given(pools())
def test_the_smallest_of_a_pool_are_those_of_a_full_sort_for_each_slot(
    pool: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, int],
) -> None:
    scores, codes, blocked, slots, sizes, chunk = pool
    eligible = Eligible(blocked, codes, slots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", chunk)
        chosen = smallest_of_pool(lambda where: scores[where].copy(), len(scores), sizes, eligible)
    of_slot = np.zeros(len(scores), dtype=int) if slots is None else slots[codes]
    for slot, size in enumerate(sizes.tolist()):
        allowed = [task for task in np.flatnonzero(of_slot == slot).tolist() if task not in blocked.tolist()]
        ranked = sorted(allowed, key=lambda task: (scores[task], task))  # of equal ones the first
        assert chosen[slot].tolist() == ranked[:size]
    np.testing.assert_array_equal(
        eligible.of(np.arange(len(scores))), np.isin(np.arange(len(scores)), blocked, invert=True)
    )


@given(pools())
def test_tasks_are_sorted_by_slot_in_their_order(
    pool: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, int],
) -> None:
    _, codes, blocked, slots, sizes, _ = pool
    places = Eligible(blocked, codes, slots).places(blocked, len(sizes))
    of_slot = np.zeros(len(blocked), dtype=int) if slots is None else slots[codes[blocked]]
    assert [p.tolist() for p in places] == [np.flatnonzero(of_slot == slot).tolist() for slot in range(len(sizes))]


def test_chunks_cover_the_pool_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)
    assert list(chunks.chunks(10)) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert list(chunks.chunks(8)) == [slice(0, 4), slice(4, 8)]


def test_scores_are_asked_for_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)
    asked = []

    def score(where: slice) -> np.ndarray:
        asked.append((where.start, where.stop))
        return -np.arange(where.start, where.stop, dtype=np.float32)

    codes = np.array([0, 1] * 5, dtype=np.uint8)
    chosen = smallest_of_pool(score, 10, np.array([3]), Eligible(np.array([9]), codes))
    assert asked == [(0, 4), (4, 8), (8, 10)]
    assert [tasks.tolist() for tasks in chosen] == [[8, 7, 6]]
    asked.clear()
    chosen = smallest_of_pool(score, 10, np.array([1, 2]), Eligible(np.array([9]), codes, np.array([1, 0])))
    assert asked == [(0, 4), (4, 8), (8, 10)]  # once, whatever the number of slots
    assert [tasks.tolist() for tasks in chosen] == [[7], [8, 6]]


def test_ties_are_broken_at_random_and_only_ties() -> None:
    rng, scores = np.random.default_rng(1), np.array([1.0, 0.1 + 0.2, 0.3, 0.3, 9.0])
    batches = np.array([smallest_with_random_ties(scores, 2, rng) for _ in range(3000)])
    np.testing.assert_allclose(
        np.bincount(batches.ravel(), minlength=5) / 3000, [0, 2 / 3, 2 / 3, 2 / 3, 0], atol=0.035
    )
    assert smallest(scores, 5).tolist() == [2, 3, 1, 0, 4]
