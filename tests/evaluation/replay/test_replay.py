# Shapes: N tasks, E recorded epochs, B tasks per step.

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from bots_lightning.beliefs import Belief, BetaBelief, Evidence, TaskFeatures
from bots_lightning.evaluation.replay.replay import (
    ReplaySettings,
    over_seeds,
    recorded_forgetting,
    replay,
    replay_once,
)
from bots_lightning.evaluation.replay.trajectories import Trajectories
from bots_lightning.selection import LearnabilitySelector, TaskSelector, ThompsonSelector, UniformSelector


def record_of(successes: Sequence[Sequence[int]], rollouts: int = 8) -> Trajectories:
    counts = np.array(successes, dtype=np.int64)
    ids = [f"t{row}" for row in range(len(counts))]
    return Trajectories(ids, counts, np.full(len(counts), rollouts), np.full(len(counts), 0.5))


def random_record(num_tasks: int = 40, epochs: int = 6, seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    rates = rng.beta(0.7, 0.7, num_tasks)
    return record_of(rng.binomial(8, rates[:, None], (num_tasks, epochs)).tolist())


class Scripted(TaskSelector):
    """Takes what a script says and keeps a diary, shared by all copies."""

    def __init__(
        self, script: list[list[int]], belief: Belief | None = None, diary: list[object] | None = None
    ) -> None:
        self.script, self.belief, self.diary = script, belief, diary

    def __deepcopy__(self, memo: object) -> Scripted:
        return Scripted(list(self.script), self.belief, self.diary)

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        super().setup(features, seed)
        if self.belief is not None:
            self.belief.setup(features)

    def select(self, batch_size: int) -> np.ndarray:
        chosen = np.array(self.script.pop(0))
        if self.diary is not None:
            self.diary.append(("select", chosen.tolist()))
        return chosen

    def observe(self, evidence: Evidence) -> None:
        if self.diary is not None:
            self.diary.append(("observe", evidence.successes.tolist(), evidence.counts.tolist()))
        evidence.successes[:] = -1  # a selector may spoil what it was given, not the record
        if self.belief is not None:
            self.belief.observe(evidence)


class Parrot(Belief):
    """Expects what it saw last to come again; 0.5 at first. It has no distribution."""

    def setup(self, features: TaskFeatures) -> None:
        self.rates = np.full(features.num_tasks, 0.5)

    def observe(self, evidence: Evidence) -> None:
        self.rates[evidence.indices] = evidence.successes / evidence.counts

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        return self.rates

    def mean(self) -> np.ndarray:
        return self.rates.copy()

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        pass


def test_a_script_by_hand() -> None:
    record = record_of([[1, 0, 4, 8], [1, 3, 0, 8], [1, 8, 5, 2], [1, 8, 8, 8]])
    diary: list[object] = []
    script = [[0, 1], [2, 3], [0, 2], [1, 3], [2, 0], [2, 1]]
    scores = replay_once(record, Scripted(script, diary=diary), 0, ReplaySettings(2, 2))
    # Epoch 1: {0, 3} and {8, 8}; epoch 2: {4, 5} and {0, 8}; epoch 3: {2, 8} twice.
    assert scores["effective_task_ratio"] == pytest.approx((0.5 + 0 + 1 + 0 + 0.5 + 0.5) / 6)
    assert (scores["first_quarter"], scores["last_quarter"]) == (0.5, 0.5)  # of 6 steps, one each
    uses = np.array([3, 3, 4, 2])
    assert scores["mixed_per_1000_rollouts"] == pytest.approx(1000 * 5 / (6 * 2 * 8))
    assert scores["distinct_tasks"] == 4
    assert scores["seen_fraction"] == 1
    assert scores["largest_reuse"] == 4
    assert scores["effective_tasks"] == pytest.approx(np.exp(stats.entropy(uses / 12)))
    assert diary[:4] == [
        ("select", [0, 1]),
        ("observe", [0.0, 3.0], [8.0, 8.0]),
        ("select", [2, 3]),
        ("observe", [8.0, 8.0], [8.0, 8.0]),
    ]
    assert diary[5] == ("observe", [4.0, 5.0], [8.0, 8.0])
    assert len(diary) == 12
    assert all(scores[name] is None for name in ("rmse", "log_predictive", "spearman", "coverage_90", "rmse_all"))


def test_forgetting_is_the_records_own() -> None:
    """Of three tasks once solved, one is lost and one half lost, by halves of whole rollouts."""
    assert recorded_forgetting(
        record_of([[0, 8, 8, 0], [0, 8, 8, 4], [0, 0, 8, 8], [0, 0, 0, 8]]), ReplaySettings()
    ) == (pytest.approx((1 + 0.5 + 0) / 3))
    assert recorded_forgetting(record_of([[0, 8]]), ReplaySettings()) is None
    assert recorded_forgetting(record_of([[0, 0, 8]]), ReplaySettings()) is None
    rng = np.random.default_rng(0)
    unchanged = rng.binomial(8, rng.uniform(size=(20_000, 1)), (20_000, 4))
    assert recorded_forgetting(record_of(unchanged.tolist()), ReplaySettings()) == pytest.approx(0, abs=0.01)


def test_quarters_of_eight_steps_are_two_steps_each() -> None:
    record = record_of([[0, 4, 8, 8, 8, 8, 8, 8, 1], [0, 4, 4, 8, 8, 8, 8, 8, 1]])
    scores = replay_once(record, Scripted([[0, 1]] * 8), 0, ReplaySettings(2, 1))
    assert (scores["first_quarter"], scores["last_quarter"]) == ((1 + 0.5) / 2, (0 + 1) / 2)


def test_without_a_weak_reference_the_first_epoch_is_replayed_too() -> None:
    record = record_of([[4, 8], [8, 8]])
    with_first = replay_once(record, Scripted([[0, 1]] * 2), 0, ReplaySettings(2, 1, weak_from_first_epoch=False))
    assert with_first["effective_task_ratio"] == (0.5 + 0) / 2
    assert replay_once(record, Scripted([[0, 1]]), 0, ReplaySettings(2, 1))["effective_task_ratio"] == 0


def test_a_forecast_cannot_see_the_present() -> None:
    """Counts jump between 0 and 8; whoever only knows the past is always wrong: by 0.5 at first, then by 1."""
    record = record_of([[8, 0, 8, 0, 8], [0, 8, 0, 8, 0], [8, 0, 8, 0, 8]])

    class ParrotSelector(UniformSelector):
        def setup(self, features: TaskFeatures, seed: int = 0) -> None:
            super().setup(features, seed)
            self.belief = Parrot()
            self.belief.setup(features)

        def observe(self, evidence: Evidence) -> None:
            self.belief.observe(evidence)

    scores = replay_once(record, ParrotSelector(), 0, ReplaySettings(3, 1))
    expected = np.sqrt((0.5**2 + 3 * 1**2) / 4)
    assert scores["rmse"] == pytest.approx(expected)
    assert scores["rmse_all"] == pytest.approx(expected)
    assert (scores["log_predictive"], scores["coverage_90"], scores["log_predictive_all"]) == (None, None, None)
    # A second selection of the same epoch has seen its counts; the scores of the pool have not.
    twice = replay_once(record, ParrotSelector(), 0, ReplaySettings(3, 2))
    assert twice["rmse"] == pytest.approx(np.sqrt((0.5**2 + 3 * 1**2 + 4 * 0) / 8))
    assert twice["rmse_all"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "build", [lambda: ThompsonSelector(BetaBelief(0.2, 0.0)), lambda: LearnabilitySelector("task")]
)
def test_belief_scores_agree_with_an_independent_loop(build: Callable[[], TaskSelector]) -> None:
    """The same run again, forecasts by hand and probabilities by scipy."""
    record, settings = random_record(), ReplaySettings(5, 3)
    scores = replay_once(record, build(), 4, settings)
    selector = build()
    selector.setup(record.features(True), seed=4)

    def forecast(tasks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        concentrations = selector.forecast(tasks)
        assert concentrations is not None
        return concentrations

    batch, pool = [], []
    for epoch in range(1, 6):
        counts = record.successes[:, epoch]
        pool += list(zip(counts, *forecast(np.arange(len(record))), strict=True))
        for _ in range(3):
            chosen = selector.select(5)
            batch += list(zip(counts[chosen], *forecast(chosen), strict=True))
            selector.observe(Evidence(chosen, counts[chosen], np.full(5, 8)))
    for suffix, rows in (("", batch), ("_all", pool)):
        k, alpha, beta = np.array(rows).T
        mean = alpha / (alpha + beta)
        assert scores[f"rmse{suffix}"] == pytest.approx(np.sqrt(((mean - k / 8) ** 2).mean()))
        expected = stats.betabinom.logpmf(k.astype(int), 8, alpha, beta).mean()
        assert scores[f"log_predictive{suffix}"] == pytest.approx(expected)
    k, alpha, beta = np.array(batch).T
    assert scores["spearman"] == pytest.approx(stats.spearmanr(alpha / (alpha + beta), k).statistic)


def test_seeds_differ_repeat_and_give_a_deviation() -> None:
    record, settings = random_record(), ReplaySettings(5, 3)
    selector = ThompsonSelector(BetaBelief())
    runs = [replay_once(record, selector, seed, settings) for seed in range(3)]
    assert runs[0] == replay_once(record, selector, 0, settings)
    assert runs[0] != runs[1]
    ratios = [run["effective_task_ratio"] for run in runs]
    found = replay(record, {"mine": selector}, seeds=3, settings=settings)["mine"]
    assert found["effective_task_ratio"] == pytest.approx(np.mean(ratios))  # type: ignore[arg-type]
    assert found["effective_task_ratio_std"] == pytest.approx(np.std(ratios, ddof=1))  # type: ignore[arg-type]
    assert found["effective_task_ratio_std"] > 0  # type: ignore[operator]
    assert not hasattr(selector, "rng")  # the selector itself was never set up


def test_a_score_needs_every_seed_and_a_deviation_two() -> None:
    assert over_seeds([{"a": 1.0, "b": None}, {"a": 3.0, "b": 2.0}]) == {
        "a": 2.0,
        "a_std": pytest.approx(np.sqrt(2)),
        "b": None,
        "b_std": None,
    }
    assert over_seeds([{"a": 1.0}]) == {"a": 1.0, "a_std": None}


def test_who_knows_more_scores_better() -> None:
    record = random_record(num_tasks=60, epochs=30)
    results = replay(
        record,
        {"uniform": UniformSelector(), "bots": ThompsonSelector(BetaBelief(0.0, 0.0))},
        seeds=2,
        settings=ReplaySettings(6, 2),
    )
    ratio = {name: scores["effective_task_ratio"] for name, scores in results.items()}
    assert ratio["bots"] > ratio["uniform"] + 0.1  # type: ignore[operator]
    assert results["uniform"]["effective_tasks"] > results["bots"]["effective_tasks"]  # type: ignore[operator]


@pytest.mark.parametrize("chosen", [[0], [0, 0], [0, 9], [-1, 0]])
def test_a_wrong_selection_is_named(chosen: list[int]) -> None:
    with pytest.raises(ValueError, match=r"Scripted.select\(2\) returned .*expected 2 different positions from 0 to 2"):
        replay_once(record_of([[1, 1]] * 3), Scripted([chosen]), 0, ReplaySettings(2, 1))


def test_settings_that_leave_nothing_to_replay_are_errors() -> None:
    with pytest.raises(ValueError, match=r"1 epoch and the first one serves as the weak reference.*--weak none"):
        replay_once(record_of([[1], [2]]), UniformSelector(), 0, ReplaySettings(1, 1))
    with pytest.raises(ValueError, match="selections_per_epoch=0; expected at least 1"):
        ReplaySettings(selections_per_epoch=0)
    with pytest.raises(ValueError, match="seeds=0; expected at least 1"):
        replay(random_record(), {}, seeds=0)
