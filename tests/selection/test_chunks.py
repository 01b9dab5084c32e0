# Shapes: N tasks in the pool, K groups.

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.selection import chunks
from bots_lightning.selection.chunks import Eligible, smallest, smallest_of_pool, smallest_with_random_ties


@st.composite
def pools(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, int, int]:
    """Scores with ties, groups, blocked tasks, allowed groups, how many are asked for, and the size of a chunk."""
    n = draw(st.integers(1, 60))
    scores = draw(st.lists(st.one_of(st.integers(0, 5), st.floats(-9, 9)), min_size=n, max_size=n))
    codes = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    blocked = draw(st.lists(st.integers(0, n - 1), max_size=n))
    groups = draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=3, max_size=3)))
    return (
        np.array(scores, dtype=np.float64),
        np.array(codes, dtype=np.uint8),
        np.array(blocked, dtype=np.int64),
        None if groups is None else np.array(groups),
        draw(st.integers(1, n)),
        draw(st.integers(1, n + 1)),
    )


@given(pools())
def test_the_smallest_of_a_pool_are_those_of_a_full_sort(
    pool: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, int, int],
) -> None:
    scores, codes, blocked, groups, k, size = pool
    allowed = [
        task for task in range(len(scores)) if task not in blocked.tolist() and (groups is None or groups[codes[task]])
    ]
    eligible = Eligible(blocked, codes, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", size)
        chosen = smallest_of_pool(lambda where: scores[where].copy(), len(scores), k, eligible)
    assert len(set(chosen.tolist())) == len(chosen) == min(k, len(allowed))  # fewer only if there are not so many
    assert set(chosen.tolist()) <= set(allowed)
    np.testing.assert_array_equal(scores[chosen], np.sort(scores[allowed])[:k])
    np.testing.assert_array_equal(eligible.of(np.arange(len(scores))), np.isin(np.arange(len(scores)), allowed))


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

    chosen = smallest_of_pool(score, 10, 3, Eligible(np.array([9]), np.zeros(10, dtype=np.uint8)))
    assert asked == [(0, 4), (4, 8), (8, 10)]
    assert chosen.tolist() == [8, 7, 6]


def test_ties_are_broken_at_random_and_only_ties() -> None:
    rng, scores = np.random.default_rng(1), np.array([1.0, 0.1 + 0.2, 0.3, 0.3, 9.0])
    batches = np.array([smallest_with_random_ties(scores, 2, rng) for _ in range(3000)])
    np.testing.assert_allclose(
        np.bincount(batches.ravel(), minlength=5) / 3000, [0, 2 / 3, 2 / 3, 2 / 3, 0], atol=0.035
    )
    assert smallest(scores, 5).tolist() == [2, 3, 1, 0, 4]
