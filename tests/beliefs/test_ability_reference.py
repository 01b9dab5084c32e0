"""The lazy, vectorized belief against the same model updated task by task and step by step."""

# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task.

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.special import polygamma

from bots_lightning.beliefs import AbilityBelief, Evidence, TaskFeatures
from bots_lightning.beliefs.logit_beta import match_beta

NAN = float("nan")


def features_of(n: int, groups: int = 1, seed: int = 0, missing: float = 0.0) -> TaskFeatures:
    """Two reference columns, the first with some unknown rates, and labelled groups."""
    rng = np.random.default_rng(seed)
    weak, strong = rng.beta(0.5, 0.6, n), rng.beta(0.8, 0.4, n)
    weak[rng.random(n) < missing] = NAN
    return TaskFeatures(n, {"strong": strong, "weak": weak}, np.array([f"g{k % groups}" for k in range(n)]))


def random_evidence(rng: np.random.Generator, n: int, batch: int) -> Evidence:
    """Whole and fractional counts of distinct tasks, other numbers of rollouts each."""
    counts = rng.integers(1, 12, batch).astype(float)
    share = np.where(rng.random(batch) < 0.5, rng.random(batch), rng.integers(0, 2, batch))
    return Evidence(rng.permutation(n)[:batch], counts * share, counts)


@dataclass
class Dense:
    """The model task by task and step by step: every task's mean and variance is carried along and moved each step."""

    features: TaskFeatures
    task_drift: float = 0.003
    ability_drift: float = 0.0008
    tasks: list[tuple[float, float] | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = self.features.num_tasks
        self.tasks = [None] * n
        self.groups = [int(label[1:]) for label in self.features.groups]
        count = max(self.groups) + 1
        self.ability, self.ability_variance = [0.0] * count, [1.0 if count > 1 else 0.0] * count
        columns, start = [np.ones(n)], [0.0]
        for name in sorted(self.features.references):
            p = self.features.references[name]
            x = np.log((8 * p + 0.5) / (8 * (1 - p) + 0.5))
            unknown = np.isnan(p)
            columns.append(np.where(unknown, np.nanmean(x), x))
            start.append(0.4)
            if unknown.any():
                columns.append(unknown.astype(float))
                start.append(0.0)
        self.x = np.stack(columns, axis=1)
        self.z = np.abs(self.x) - np.abs(self.x).mean(axis=0)
        self.z[:, 0] = 1
        features = self.x.shape[1] - 1
        self.w, self.w_precision = np.array(start), np.diag([0.25] + [4.0] * features)
        self.u, self.u_precision = np.array([np.log(2.0)] + [0.25] * features), np.diag([1.0] + [10.0] * features)

    def predict(self, k: int) -> tuple[float, float]:
        known = self.tasks[k]
        if known is not None:
            return known
        variance = np.exp(min(max(self.z[k] @ self.u, -4), 4))
        return float(self.x[k] @ self.w + self.ability[self.groups[k]]), float(variance)

    def observe(self, evidence: Evidence) -> None:
        rows = []
        for k, s, c in zip(evidence.indices, evidence.successes, evidence.counts, strict=True):
            m, v = self.predict(k)
            a, b = (float(value) for value in match_beta(np.array(m), np.array(v)))
            m1 = float(polygamma(0, a + s) - polygamma(0, b + c - s))
            v1 = float(polygamma(1, a + s) + polygamma(1, b + c - s))
            rows.append((int(k), v, m1, v1, (m1 - m) / v, min(max((v - v1) / v**2, 1e-6), 1 / v)))
        moved = []
        for g in range(len(self.ability)):
            prior = self.ability_variance[g] + self.ability_drift
            information = sum(row[5] for row in rows if self.groups[row[0]] == g)
            self.ability_variance[g] = 1 / (1 / prior + information)
            moved.append(self.ability_variance[g] * sum(row[4] for row in rows if self.groups[row[0]] == g))
            self.ability[g] += moved[g]
        first = [row for row in rows if self.tasks[row[0]] is None]
        self.learn_weights(first, moved)
        for k, (known, g) in enumerate(zip(self.tasks, self.groups, strict=True)):
            if known is not None:  # everything the group learns moves a task at once
                self.tasks[k] = (known[0] + moved[g], self.drifted(known[1]))
        for k, v, m1, v1, _, _ in rows:
            self.tasks[k] = (m1 + moved[self.groups[k]] * v1 / v, self.drifted(v1))

    def drifted(self, variance: float) -> float:
        return max(variance, min(variance + self.task_drift, 9))

    def learn_weights(self, rows: list[tuple[int, float, float, float, float, float]], moved: list[float]) -> None:
        pull, pull_spread = np.zeros(len(self.w)), np.zeros(len(self.u))
        for k, v, _, _, score, information in rows:
            self.w_precision += information * np.outer(self.x[k], self.x[k])
            self.u_precision += (v * information) ** 2 / 2 * np.outer(self.z[k], self.z[k])
            pull += self.x[k] * (score - information * moved[self.groups[k]])
            pull_spread += self.z[k] * min(max(v * (score**2 - information) / 2, -2), 2)
        if rows:
            self.w = self.w + np.linalg.inv(self.w_precision) @ pull
            self.u = self.u + np.clip(np.linalg.inv(self.u_precision) @ pull_spread, -0.5, 0.5)


@pytest.mark.parametrize(("groups", "missing"), [(1, 0.0), (3, 0.3)])
def test_the_lazy_prediction_is_that_of_the_dense_model(groups: int, missing: float) -> None:
    features = features_of(60, groups, missing=missing)
    belief, dense, rng = AbilityBelief(), Dense(features), np.random.default_rng(4)
    belief.setup(features)
    for step in range(500):
        evidence = random_evidence(rng, 60 if step > 100 else 30, 4)
        belief.observe(evidence)
        dense.observe(evidence)
        if step % 10 == 0 or step > 490:
            mean, variance = belief.predict()
            expected = np.array([dense.predict(k) for k in range(60)])
            np.testing.assert_allclose(mean, expected[:, 0], rtol=0, atol=1e-6)
            np.testing.assert_allclose(variance, expected[:, 1], rtol=0, atol=1e-6)
