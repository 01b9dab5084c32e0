# Shapes: N tasks in the pool, K bins, B tasks to select.

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots_lightning.beliefs import TaskFeatures
from bots_lightning.selection.bins import BinnedEpochs, Bins

NAN = float("nan")


def features_of(codes: list[int]) -> TaskFeatures:
    """A pool whose groups are these bins."""
    return TaskFeatures(len(codes), groups=np.array([f"g{code}" for code in codes]))


def column(values: list[float] | list[str]) -> TaskFeatures:
    return TaskFeatures(len(values), columns={"level": np.array(values)})


# --- which bin a task is in -------------------------------------------------------------------------------------------


def test_numbers_are_divided_at_their_quantiles() -> None:
    """0 … 7 in four bins of two, in any order; what is unknown is a bin of its own."""
    bins = Bins(column([7.0, 0.0, NAN, 3.0, 2.0, 5.0, 1.0, 4.0, 6.0, NAN]), "level", 4)
    assert bins.codes is not None
    assert bins.codes.tolist() == [3, 0, 4, 1, 1, 2, 0, 2, 3, 4]
    assert bins.sizes(np.arange(bins.count)).tolist() == [2, 2, 2, 2, 2]


def test_tasks_with_equal_numbers_share_a_bin() -> None:
    rates = [0.0] * 6 + [0.5, 1.0]
    bins = Bins(TaskFeatures(8, {"strong": np.array(rates)}), "strong", 4)
    assert bins.codes is not None
    assert len(set(bins.codes[:6].tolist())) == 1
    assert len(bins.filled()) == 2
    assert bins.sizes(bins.filled()).tolist() == [6, 2]


@pytest.mark.parametrize("values", [[NAN, NAN], [3.0, 3.0]])
def test_a_column_without_differences_is_one_bin(values: list[float]) -> None:
    assert len(Bins(column(values), "level", 5).filled()) == 1


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [False, True, False, True]])
def test_whole_numbers_and_truth_values_are_numbers(values: list[float]) -> None:
    bins = Bins(TaskFeatures(4, columns={"level": np.array(values)}), "level", 2)
    assert bins.codes is not None
    assert [value > np.median(values) - 0.1 for value in values] == (bins.codes == bins.codes.max()).tolist()
    assert len(bins.filled()) == 2


def test_labels_are_bins_in_the_order_of_their_first_task() -> None:
    for features, name in ((column(["b", "a", "b", "c"]), "level"), (features_of([7, 2, 7, 1]), "group")):
        bins = Bins(features, name, 8)
        assert bins.codes is not None
        assert bins.codes.tolist() == [0, 1, 0, 2]


def test_each_task_by_itself() -> None:
    bins = Bins(TaskFeatures(3), "task", 8)
    assert bins.filled().tolist() == bins.of(np.arange(3)).tolist() == [0, 1, 2]
    assert bins.sizes(np.array([2, 0])).tolist() == [1, 1]


@pytest.mark.parametrize("name", ["group", "level", "kind", "task"])
def test_tasks_keep_their_bins_when_the_pool_grows(name: str) -> None:
    """The new tasks would move the quantiles, and bring a new label."""
    few = TaskFeatures(
        4, groups=np.array(list("abab")), columns={"level": np.arange(4.0), "kind": np.array(list("xyxy"))}
    )
    many = TaskFeatures(
        7,
        groups=np.array(list("ababcab")),
        columns={"level": np.r_[np.arange(4.0), 9, NAN, -9], "kind": np.array(list("xyxyzxy"))},
    )
    bins = Bins(few, name, 2)
    before = bins.of(np.arange(4)).tolist()
    bins.grow(many)
    assert bins.of(np.arange(4)).tolist() == before
    assert bins.of(np.arange(4, 7)).tolist() == {"level": [1, 2, 0], "task": [4, 5, 6]}.get(name, [2, 0, 1])


def test_a_wrong_column_is_named() -> None:
    features = TaskFeatures(2, {"strong": np.zeros(2)}, columns={"vectors": np.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"bin_by='levle'; expected 'group', 'task', .* has \['strong', 'vectors'\]"):
        Bins(features, "levle", 4)
    with pytest.raises(ValueError, match=r"bin_by='vectors': the column has the shape \(2, 3\); expected one value"):
        Bins(features, "vectors", 4)


# --- draws ------------------------------------------------------------------------------------------------------------


def sequential(sizes: list[int], weights: list[float], size: int) -> dict[tuple[int, ...], float]:
    """Probability of each number of tasks per bin if the places of a batch are filled one after the other."""
    outcomes = {tuple(0 for _ in sizes): 1.0}
    for _ in range(size):
        following: dict[tuple[int, ...], float] = {}
        for counts, probability in outcomes.items():
            left = [w * (count < most) for w, count, most in zip(weights, counts, sizes, strict=True)]
            for bin_, weight in enumerate(left):
                more = tuple(count + (place == bin_) for place, count in enumerate(counts))
                following[more] = following.get(more, 0.0) + probability * weight / sum(left)
        outcomes = {counts: p for counts, p in following.items() if p > 0}
    return outcomes


@pytest.mark.parametrize(("sizes", "alone"), [([1, 2, 3], False), ([1, 1, 1, 1], True)])
def test_bins_are_drawn_as_often_as_place_by_place(sizes: list[int], alone: bool) -> None:
    weights = [0.5, 0.2, 0.3, 0.1][: len(sizes)]
    codes = np.repeat(np.arange(len(sizes)), sizes)
    bins = Bins(TaskFeatures(len(codes)), "task", 1) if alone else Bins(features_of(codes.tolist()), "group", 1)
    rng, found, draws = np.random.default_rng(0), Counter(), 20_000  # type: ignore[var-annotated]
    epochs = BinnedEpochs(bins, rng)
    for _ in range(draws):
        batch = epochs.draw(np.arange(len(sizes)), np.array(weights), 3, rng)
        assert len(set(batch.tolist())) == 3
        found[tuple(np.bincount(codes[batch], minlength=len(sizes)).tolist())] += 1
    expected = sequential(sizes, weights, 3)
    assert set(found) <= set(expected)
    for counts, probability in expected.items():
        deviation = np.sqrt(probability * (1 - probability) / draws)
        assert found[counts] / draws == pytest.approx(probability, abs=4.5 * deviation)


codes_of_pools = st.lists(st.integers(0, 3), min_size=1, max_size=15)


@given(codes_of_pools, st.data())
def test_tasks_of_a_bin_come_equally_often(codes: list[int], data: st.DataObject) -> None:
    bins = Bins(features_of(codes), "group", 1)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    epochs, totals = BinnedEpochs(bins, rng), np.zeros(len(codes), dtype=int)
    for _ in range(12):
        weights = np.array(data.draw(st.lists(st.floats(0, 1), min_size=bins.count, max_size=bins.count)))
        batch = epochs.draw(bins.filled(), weights, data.draw(st.integers(1, len(codes))), rng)
        assert len(set(batch.tolist())) == len(batch)
        totals[batch] += 1
        for bin_ in bins.filled():
            assert np.ptp(totals[bins.of(np.arange(len(codes))) == bin_]) <= 1


def test_bins_without_weight_fill_what_the_others_cannot() -> None:
    bins = Bins(features_of([0, 0, 1, 2]), "group", 1)
    rng = np.random.default_rng(0)
    epochs = BinnedEpochs(bins, rng)
    for _ in range(20):
        batch = epochs.draw(np.arange(3), np.array([1.0, 0.0, 0.0]), 3, rng)
        assert {0, 1} < set(batch.tolist())


@given(codes_of_pools, st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_new_tasks_come_within_the_rest_of_their_bins_epoch(codes: list[int], more: list[int], seed: int) -> None:
    """Draws from one bin at a time: before the second epoch begins, each of its tasks has come once."""
    rng = np.random.default_rng(seed)
    bins = Bins(features_of(codes), "group", 1)
    epochs = BinnedEpochs(bins, rng)
    drawn = {}
    for bin_ in bins.filled().tolist():
        count = int(rng.integers(bins.sizes(np.array([bin_]))[0] + 1))
        drawn[bin_] = [int(epochs.draw(np.array([bin_]), np.ones(1), 1, rng)[0]) for _ in range(count)]
    bins.grow(features_of(codes + more))
    epochs.grow(bins, rng)
    for bin_ in bins.filled().tolist():
        mine = np.flatnonzero(bins.of(np.arange(len(codes + more))) == bin_).tolist()
        before = drawn.get(bin_, [])
        rest = [int(epochs.draw(np.array([bin_]), np.ones(1), 1, rng)[0]) for _ in range(len(mine) - len(before))]
        assert sorted(before + rest) == mine


def test_a_saved_state_continues_the_epochs_and_is_a_copy() -> None:
    bins = Bins(features_of([0, 0, 0, 1, 1, 1]), "group", 1)
    first, second = (BinnedEpochs(bins, np.random.default_rng(seed)) for seed in (1, 2))
    first.draw(np.arange(2), np.ones(2), 3, np.random.default_rng(3))
    state = first.state_dict()
    second.load_state_dict(state)
    state["epochs"][:] = -1
    rngs = [np.random.default_rng(4) for _ in range(2)]
    for _ in range(6):
        one, other = (
            epochs.draw(np.arange(2), np.ones(2), 2, rng) for epochs, rng in zip((first, second), rngs, strict=True)
        )
        np.testing.assert_array_equal(one, other)
