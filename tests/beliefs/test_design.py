# Shapes: N tasks in the pool, P profiles, F regressors.

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from bots_lightning.beliefs import AbilityBelief, Evidence, TaskFeatures
from bots_lightning.beliefs.design import category_columns, design_of, number_columns, reference_columns

NAN = float("nan")
ONES = np.ones(4, dtype=np.int64)


def test_numbers_are_in_units_of_their_deviation_by_hand() -> None:
    """2, 4, 4, 6 have the mean 4 and the deviation √(8/4)."""
    columns = number_columns(np.array([2.0, 4.0, 4.0, 6.0]), ONES)
    np.testing.assert_allclose(columns, np.array([[-2], [0], [0], [2]]) / np.sqrt(2), rtol=1e-15)


def test_every_task_counts_once_and_not_every_profile() -> None:
    """Three tasks at 0 and one at 4: mean 1, deviation √((3·1 + 9)/4) = √3."""
    columns = number_columns(np.array([0.0, 4.0]), np.array([3, 1]))
    np.testing.assert_allclose(columns, np.array([[-1], [3]]) / np.sqrt(3), rtol=1e-15)


def test_an_unknown_number_is_the_mean_and_marked() -> None:
    columns = number_columns(np.array([1.0, NAN, 3.0, NAN]), ONES)
    np.testing.assert_allclose(columns, [[-1, 0], [0, 1], [1, 0], [0, 1]], atol=1e-15)


@pytest.mark.parametrize("value", [0.1, 1e9 / 3, 0.0])
def test_numbers_that_do_not_differ_say_nothing(value: float) -> None:
    """Their mean may differ from them in the last bit, which is no deviation."""
    assert number_columns(np.full(7, value), np.arange(1, 8)).shape == (7, 0)
    np.testing.assert_array_equal(number_columns(np.array([value, NAN, value]), ONES[:3]), [[0, 0], [0, 1], [0, 0]])


def test_numbers_that_nobody_knows_say_nothing() -> None:
    assert number_columns(np.full(4, NAN), ONES).shape == (4, 0)
    assert reference_columns(np.full(4, NAN), 8.0).shape == (4, 0)


def test_labels_have_a_column_each() -> None:
    np.testing.assert_array_equal(
        category_columns(np.array(["b", "a", "", "b"])), [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    )


def columns_of(features: TaskFeatures, **options: list[str]) -> np.ndarray:
    """(N, F) the regressors of every task."""
    design = design_of(features, [], 8.0, **options)
    return design.x[design.profiles.labels]


def test_the_regressors_are_one_numbers_labels_and_embeddings_in_this_order() -> None:
    columns = {
        "length": np.array([10, 30]),
        "level": np.array([3, 1]),
        "vector": np.array([[3.0, 0.0, 7.0], [0.0, 4.0, 7.0]]),
    }
    x = columns_of(TaskFeatures(2, columns=columns), numbers=["vector", "length"], categories=["level"])
    # The embeddings, centred, are ±(1.5, −2, 0), whose length is 2.5.
    np.testing.assert_allclose(x, [[1, -1, 0, 1, 0.6, -0.8, 0], [1, 1, 1, 0, -0.6, 0.8, 0]], atol=1e-15)


def test_embeddings_have_unit_total_variance_whatever_their_scale_and_place() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 20)) * np.arange(20)
    x, moved = (
        columns_of(TaskFeatures(50, columns={"v": v}), numbers=["v"])[:, 1:] for v in (vectors, 7 - 1000 * vectors)
    )
    assert (x**2).sum(axis=1).mean() == pytest.approx(1)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(moved, -x, atol=1e-11)


def test_tasks_of_which_the_same_is_known_share_a_profile() -> None:
    n = 1000
    features = TaskFeatures(
        n, {"a": (np.arange(n) % 3) / 2}, columns={"length": np.arange(n) % 5, "kind": np.arange(n) % 2}
    )
    design = design_of(features, ["a"], 8.0, ["length"], ["kind"])
    assert len(design.profiles) == 3 * 5 * 2
    np.testing.assert_allclose(np.average(design.x[:, 2], weights=design.profiles.sizes), 0, atol=1e-14)
    np.testing.assert_allclose(np.average(design.z[:, 1], weights=design.profiles.sizes), 0, atol=1e-14)


def test_means_and_deviations_stay_when_a_pool_grows() -> None:
    rng = np.random.default_rng(2)
    numbers, vectors, rates = rng.normal(5, 2, 40), rng.normal(size=(40, 3)), rng.random(40)
    numbers[[2, 35]] = rates[[3, 36]] = NAN
    numbers[30:] *= 100
    vectors[30:] += 100
    small = TaskFeatures(30, {"a": rates[:30]}, columns={"n": numbers[:30], "v": vectors[:30]})
    large = TaskFeatures(40, {"a": rates}, columns={"n": numbers, "v": vectors})
    for options in ({"numbers": ["n"]}, {"numbers": ["n", "v"]}):
        before, after = design_of(small, ["a"], 8.0, **options), design_of(large, ["a"], 8.0, scaled_on=30, **options)
        for name in ("x", "z"):
            old, new = (getattr(design, name)[design.profiles.labels[:30]] for design in (before, after))
            np.testing.assert_allclose(new, old, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ["size"]}, r"no column 'size' of numbers or labels; it has \['kind', 'length'\]\. Add"),
        ({"categories": ["size"]}, "no column 'size'"),
        ({"features": ["kind"]}, r"column 'kind' holds <U1 of shape \(3,\); expected numbers .*`categories`"),
    ],
)
def test_columns_that_cannot_be_used_are_named(options: dict[str, list[str]], message: str) -> None:
    features = TaskFeatures(3, columns={"kind": np.array(["a", "b", "c"]), "length": np.arange(3)})
    with pytest.raises(ValueError, match=message):
        AbilityBelief(**options).setup(features)  # type: ignore[arg-type]


def test_a_column_of_another_length_is_named() -> None:
    with pytest.raises(ValueError, match="column 'n' has 4 rows; expected 3, one per task"):
        AbilityBelief(features=["n"]).setup(TaskFeatures(3, columns={"n": np.arange(4)}))


# --- what the belief makes of them ------------------------------------------------------------------------------------


def informative_pool(n: int, rng: np.random.Generator, informative: bool = True) -> tuple[TaskFeatures, np.ndarray]:
    """Difficulty is known through a number with gaps, a label, and a direction in 12 dimensions."""
    logits = rng.normal(0, 1.5, n)
    shown = logits if informative else rng.normal(0, 1.5, n)
    number = 300 - 50 * shown + rng.normal(0, 15, n)
    number[rng.random(n) < 0.1] = NAN
    kind = np.digitize(shown, [-1.5, 0, 1.5])
    vectors = rng.normal(size=(n, 12)) + 4 * shown[:, None] * rng.normal(size=12) / np.sqrt(12)
    return TaskFeatures(n, columns={"number": number, "kind": kind, "vector": vectors}), expit(logits)


def trained(pool: TaskFeatures, rates: np.ndarray, rng: np.random.Generator, **options: list[str]) -> AbilityBelief:
    """After one visit to each of the first 800 tasks."""
    belief = AbilityBelief(**options)  # type: ignore[arg-type]
    belief.setup(pool)
    for start in range(0, 800, 16):
        at = np.arange(start, start + 16)
        belief.observe(Evidence(at, rng.binomial(8, rates[at]).astype(np.float64), np.full(16, 8.0)))
    return belief


OPTIONS = [{"features": ["number"]}, {"categories": ["kind"]}, {"features": ["vector"]}]


@pytest.mark.parametrize("options", OPTIONS)
def test_informative_columns_improve_the_prediction_of_unvisited_tasks(options: dict[str, list[str]]) -> None:
    rng = np.random.default_rng(6)
    features, rates = informative_pool(1200, rng)
    informed, ignorant = trained(features, rates, rng, **options), trained(features, rates, rng)
    untried = slice(800, None)
    errors = [np.sqrt(np.mean((belief.mean()[untried] - rates[untried]) ** 2)) for belief in (informed, ignorant)]
    assert errors[0] < 0.6 * errors[1]
    assert np.corrcoef(informed.mean()[untried], rates[untried])[0, 1] > 0.85
    assert informed.regression.spread[0] < ignorant.regression.spread[0] - 1  # and it knows that it knows


@pytest.mark.parametrize("options", OPTIONS)
def test_uninformative_columns_keep_weights_near_zero(options: dict[str, list[str]]) -> None:
    rng = np.random.default_rng(8)
    features, rates = informative_pool(1200, rng, informative=False)
    blind, ignorant = trained(features, rates, rng, **options), trained(features, rates, rng)
    effect = (blind._design.x[:, 1:] @ blind.regression.weights[1:])[blind._profile]
    assert effect.std() < 0.25  # logits scatter by 1.5
    untried = slice(800, None)
    errors = [np.sqrt(np.mean((belief.mean()[untried] - rates[untried]) ** 2)) for belief in (blind, ignorant)]
    assert errors[0] < 1.03 * errors[1]


def test_adding_tasks_does_not_change_the_posteriors_of_the_others() -> None:
    """Although the new prompts are ten times as long, and of a group that is new."""
    rng = np.random.default_rng(9)
    features, rates = informative_pool(1000, rng)
    belief = trained(features, rates, rng, features=["number"], categories=["kind"])
    before = belief.predict()
    columns = {
        "number": np.r_[features.columns["number"], [NAN, 3000.0, 300.0]],
        "kind": np.r_[features.columns["kind"], [0, 1, 3]],
    }
    belief.add_tasks(TaskFeatures(1003, groups=np.r_[[""] * 1000, ["", "new", ""]], columns=columns))
    after = belief.predict()
    for then, now in zip(before, after, strict=True):
        np.testing.assert_allclose(now[:1000], then, rtol=1e-12)
    same_kind = np.flatnonzero((features.columns["kind"] == 3) & np.isnan(features.columns["number"]))
    assert len(same_kind) > 0
    assert after[0][1001] < after[0][1000] < after[0][1002]  # very long; short and hard; short and easy


def test_tasks_whose_columns_do_not_fit_are_refused_and_change_nothing() -> None:
    belief, untouched = (AbilityBelief(categories=["kind"]) for _ in range(2))
    for one in (belief, untouched):
        one.setup(TaskFeatures(2, columns={"kind": np.array(["a", "b"])}))
    with pytest.raises(ValueError, match=r"from 3 to 4: there is a label that is new in `categories`"):
        belief.add_tasks(TaskFeatures(3, columns={"kind": np.array(["a", "b", "c"])}))
    for one in (belief, untouched):
        one.observe(Evidence(np.array([1]), np.array([7.0]), np.array([8.0])))
    np.testing.assert_array_equal(belief.mean(), untouched.mean())


def test_a_column_of_names_is_no_category() -> None:
    """One label per task would be a regressor per task: gigabytes, and nothing learned."""
    with pytest.raises(
        ValueError, match=r"`categories` has 600 labels \(.*\); expected at most 512\. Name columns such"
    ):
        category_columns(np.array([f"task-{i}" for i in range(600)]))
