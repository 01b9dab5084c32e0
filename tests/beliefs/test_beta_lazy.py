"""BetaBelief, which updates only the tasks of the step, against the update of all tasks at every step."""

# Shapes: N tasks in the pool, B tasks in the step.

from __future__ import annotations

import numpy as np
import pytest

from bots_lightning.beliefs import BetaBelief, Evidence, ReferenceInterpolation, TaskFeatures
from bots_lightning.beliefs.beta import generalized_update
from bots_lightning.beliefs.beta_posterior import octave_cells

TASKS, BATCH = 300, 12
NAN = float("nan")


def references_of(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Continuous pass rates of two models, the strong one mostly better; some unknown, some equal."""
    weak = rng.beta(0.5, 0.6, n)
    strong = np.clip(weak + rng.uniform(-0.2, 0.7, n), 0, 1)
    weak[rng.random(n) < 0.05], strong[rng.random(n) < 0.05] = NAN, NAN
    strong[:10] = weak[:10]
    return weak, strong


def step_of(rng: np.random.Generator, n: int, rates: np.ndarray) -> Evidence:
    counts = rng.integers(4, 13, BATCH).astype(np.float64)
    at = rng.permutation(n)[:BATCH]
    return Evidence(at, rng.binomial(counts.astype(int), rates[at]).astype(np.float64), counts)


class Dense:
    """α and β of all tasks by `generalized_update` at every step."""

    def __init__(self, forgetting: float, implicit_weight: float, weak: np.ndarray, strong: np.ndarray) -> None:
        self.rates = {"forgetting": forgetting, "implicit_weight": implicit_weight, "prior": 1.0}
        self.weak, self.strong, self.ability = weak, strong, NAN
        self.alpha, self.beta = np.ones(len(weak)), np.ones(len(weak))

    def observe(self, evidence: Evidence) -> None:
        weak, strong = self.weak[evidence.indices], self.strong[evidence.indices]
        known = ~np.isnan(weak + strong)
        gap = strong[known].mean() - weak[known].mean()
        if abs(gap) >= 0.05:
            mu = ((evidence.successes / evidence.counts)[known].mean() - weak[known].mean()) / gap
            self.ability = mu if np.isnan(self.ability) else 0.9 * self.ability + 0.1 * mu
        predicted = np.clip(self.weak + self.ability * (self.strong - self.weak), 0, 1)
        for name, counted, rate in (
            ("alpha", evidence.successes, predicted),
            ("beta", evidence.counts - evidence.successes, 1 - predicted),
        ):
            explicit, implicit = np.zeros(len(predicted)), np.nan_to_num(evidence.counts.mean() * rate)
            explicit[evidence.indices] = implicit[evidence.indices] = counted
            setattr(self, name, generalized_update(getattr(self, name), explicit, implicit, **self.rates))


@pytest.mark.parametrize("most_profiles", [1 << 17, 250])
@pytest.mark.parametrize(("forgetting", "implicit_weight"), [(0.1, 0.1), (0.0, 0.05), (0.3, 0.8), (1.0, 1.0)])
def test_five_hundred_lazy_steps_are_the_dense_ones(
    forgetting: float, implicit_weight: float, most_profiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bots_lightning.beliefs.implicit.MOST_PROFILES", most_profiles)
    rng = np.random.default_rng(11)
    weak, strong = references_of(rng, TASKS)
    belief = BetaBelief(forgetting, implicit_weight, implicit=ReferenceInterpolation("weak", "strong"))
    belief.setup(TaskFeatures(TASKS, {"weak": weak, "strong": strong}))
    assert belief._profiles.exact == (most_profiles > TASKS)
    dense, deviation = Dense(forgetting, implicit_weight, weak, strong), 0.0
    truth = rng.random(TASKS)
    for step in range(500):
        evidence = step_of(rng, TASKS, np.clip(truth + step / 1000, 0, 1)).merged()
        belief.observe(evidence)
        dense.observe(evidence)
        found = np.stack(belief.concentrations())
        deviation = max(deviation, np.abs(found - np.stack([dense.alpha, dense.beta])).max())
        some = rng.integers(TASKS, size=7)
        np.testing.assert_array_equal(np.stack(belief.concentrations(some)), found[:, some])
    assert deviation < 1e-9


@pytest.mark.parametrize("num_tasks", [3000, 200_000])
@pytest.mark.parametrize(("forgetting", "implicit_weight", "rollouts"), [(0.1, 0.1, 8), (0.05, 0.1, 8), (0.1, 0.2, 8)])
def test_cells_lie_within_reach_of_the_exact_ones(
    num_tasks: int, forgetting: float, implicit_weight: float, rollouts: int
) -> None:
    """Two cells along either axis, also where the references of a large pool are rounded."""
    rng = np.random.default_rng(3)
    weak, strong = rng.random((2, num_tasks))
    belief = BetaBelief(forgetting, implicit_weight, implicit=ReferenceInterpolation("weak", "strong"))
    belief.setup(TaskFeatures(num_tasks, {"weak": weak, "strong": strong}))
    assert belief._profiles.exact == (num_tasks == 3000)
    rows = belief.grid()[0].shape[1]
    for step in range(60):
        at = rng.permutation(num_tasks)[:64]
        rates = np.clip(weak + step / 50 * (strong - weak), 0, 1)[at]
        belief.observe(Evidence(at, rng.binomial(rollouts, rates).astype(np.float64), np.full(64, float(rollouts))))
    cells = np.concatenate([belief.cells(slice(start, start + 1000)) for start in range(0, num_tasks, 1000)])
    exact = octave_cells(*(values.astype(np.float32) for values in belief.concentrations()))
    assert np.abs(cells // rows - exact // rows).max() <= 2
    assert np.abs(cells % rows - exact % rows).max() <= 2
    assert (cells == exact).mean() > 0.5


@pytest.mark.parametrize("prior", [(1.0, 1.0), (0.01, 30.0)])
@pytest.mark.parametrize("implicit", [None, ReferenceInterpolation("weak", "strong")])
@pytest.mark.parametrize("forgetting", [0.3, 0.1, 0.05])
def test_a_visit_that_is_forgotten_is_not_looked_at_and_would_make_no_difference(
    prior: tuple[float, float], implicit: ReferenceInterpolation | None, forgetting: float
) -> None:
    rng = np.random.default_rng(3)
    weak, strong = references_of(rng, TASKS)
    belief = BetaBelief(forgetting, 0.1, prior, implicit)
    belief.setup(TaskFeatures(TASKS, {"weak": weak, "strong": strong}))
    looked_at: list[int] = []
    in_full = belief._cells_of_visited

    def counted(where: slice | np.ndarray) -> np.ndarray:
        looked_at.append(len(belief.last[where]))
        return in_full(where)

    belief._cells_of_visited = counted  # type: ignore[method-assign]
    rates, everything = rng.random(TASKS), slice(0, TASKS)
    scales = np.where(np.arange(TASKS) % 2, 1.0, 3e4)  # of what some tasks' evidence is
    for step in range(800):
        np.testing.assert_array_equal(belief.cells(everything), in_full(everything))
        evidence = step_of(rng, TASKS if step < 30 else 40, rates)  # most are visited early, and never again
        scale = scales[evidence.indices]
        belief.observe(Evidence(evidence.indices, evidence.successes * scale, evidence.counts * scale))
    assert np.count_nonzero(belief.last) > 200
    belief.cells(everything)
    assert looked_at[-1] < 60  # of those, only what was visited lately


def test_a_visit_is_computed_as_long_as_it_changes_the_sum_by_hand() -> None:
    """1 − 2^16·2^−age is below 1, where a cell begins, up to 1 − 2^−24; 1 − 2^−25 is rounded to 1."""
    belief, all_of_it = BetaBelief(0.5), slice(0, 1)
    belief.setup(TaskFeatures(1))
    untried = belief.cells(all_of_it)
    belief.successes[:], belief.last[:] = -(2.0**16), 1
    shows = []
    for age in range(17, 70):
        belief.step = 1 + age
        cells = belief.cells(all_of_it)
        np.testing.assert_array_equal(cells, belief._cells_of_visited(all_of_it))
        if cells != untried:
            shows.append(age)
    assert shows == list(range(17, 41))
    assert belief._steps_remembered() <= 43


def test_very_large_evidence_is_remembered_for_longer() -> None:
    belief, restored = BetaBelief(0.1), BetaBelief(0.1)
    for each in (belief, restored):
        each.setup(TaskFeatures(3))
    before = belief._steps_remembered()
    belief.observe(Evidence(np.array([1]), np.array([1e9]), np.array([2e9])))
    assert belief._steps_remembered() > before + 80  # 1e9 / 2^16 = 15,259 = 0.9^-91
    restored.load_state_dict(belief.state_dict())
    assert restored._steps_remembered() == belief._steps_remembered()


def test_tasks_added_later_start_at_the_mean_of_their_group_with_the_weight_of_the_prior() -> None:
    """Group a has the means 9/10 and 1/2, b has 1/10, c is new; forgetting then takes all of them to the prior."""
    belief = BetaBelief(forgetting=0.5, prior=(0.5, 1.5))
    belief.setup(TaskFeatures(3, groups=np.array(["a", "a", "b"])))
    belief.observe(Evidence(np.array([0, 1, 2]), np.array([8.5, 2.5, 0.5]), np.array([8.0, 3.0, 8.0]) + 0.5))
    means = belief.mean()
    grown = TaskFeatures(6, groups=np.array(["a", "a", "b", "b", "a", "c"]))
    belief.add_tasks(grown)
    new = slice(3, 6)
    np.testing.assert_allclose(belief.mean()[new], [means[2], means[:2].mean(), 0.25], rtol=1e-14)
    np.testing.assert_allclose((belief.alpha + belief.beta)[new], 2.0, rtol=1e-14)
    np.testing.assert_array_equal(belief.mean()[:3], means)
    belief.observe(Evidence(np.array([0]), np.array([1.0]), np.array([2.0])))
    np.testing.assert_allclose(belief.alpha[new], 0.5 + 0.5 * (2 * np.r_[means[2], means[:2].mean(), 0.25] - 0.5))


def test_tasks_added_with_references_are_predicted_as_those_that_were_always_there() -> None:
    rng = np.random.default_rng(5)
    weak, strong = rng.random((2, 40))
    weak[35] = NAN
    early, late = (BetaBelief(implicit=ReferenceInterpolation("weak", "strong")) for _ in range(2))
    early.setup(TaskFeatures(40, {"weak": weak, "strong": strong}))
    late.setup(TaskFeatures(30, {"weak": weak[:30], "strong": strong[:30]}))
    for step in range(20):
        if step == 10:
            late.add_tasks(TaskFeatures(40, {"weak": weak, "strong": strong}))
        evidence = step_of(rng, 30, weak)
        early.observe(evidence)
        late.observe(evidence)
    predicted = np.delete(np.arange(40), 35)
    np.testing.assert_allclose(late.alpha[predicted], early.alpha[predicted], rtol=1e-12)
    np.testing.assert_allclose(late.beta[predicted], early.beta[predicted], rtol=1e-12)
    assert late.alpha[35] + late.beta[35] == pytest.approx(2)
