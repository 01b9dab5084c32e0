"""The ability belief: what a policy learns on some tasks moves all of their group."""

# Shapes: N tasks in the pool, B tasks in the step, F features of a task, K groups.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import Belief, FloatArray, State, TaskFeatures
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.logit_beta import logit_moments, match_beta

Moments = tuple[FloatArray, FloatArray]  # mean and variance of a logit
Where = slice | npt.NDArray[np.int64]
ALL = slice(None)

# Variance to which a visited task's uncertainty may grow. A wider logit is nearly 0 or 1, which nobody has shown.
MOST_DRIFTED = 9.0


def score_and_information(prior: Moments, posterior: Moments) -> Moments:
    """How the evidence pulls at the prior mean of a logit: gradient and curvature of its log predictive.

        d log f/dm = (m′ − m)/v      −d² log f/dm² = (v − v′)/v²      (Tweedie's formula)

    Exact for a Gaussian prior. They replace the empirical logit log((s+½)/(f+½)) and its variance, which are biased
    where all or no rollouts succeed. The curvature is kept within (0, 1/v].

    Args:
        prior: (B,) mean m and variance v of each logit.
        posterior: (B,) m′ and v′.
    """
    (mean, variance), (new_mean, new_variance) = prior, posterior
    information = np.clip((variance - new_variance) / variance**2, 1e-6, 1 / variance)
    return (new_mean - mean) / variance, information


def reference_columns(rates: FloatArray, rollouts: float) -> FloatArray:
    """A reference's columns of x: its logits log((np+½)/(n(1−p)+½)) and a mark where p is unknown.

    An unknown logit is replaced by the mean of the known ones; what the mark is worth is learned.

    Args:
        rates: (N,) pass rates in [0, 1], NaN where unknown.
        rollouts: n, rollouts behind each rate.

    Returns:
        (N, 2), or (N, 1) if all rates are known, or (N, 0) if none is.
    """
    known = np.isfinite(rates)
    if not known.any():
        return np.empty((len(rates), 0))
    p = np.where(known, rates, 0.5)
    logit = np.log((p * rollouts + 0.5) / ((1 - p) * rollouts + 0.5))
    logit[~known] = logit[known].mean()
    return np.stack([logit] if known.all() else [logit, (~known).astype(np.float64)], axis=1)


class AbilityBelief(Belief):
    """A dynamic beta-binomial generalized linear model (West, Harrison & Migon 1985) of all tasks together.

        logit p_k(t) = x_k·w + A_g(k)(t) + θ_k(t)

    A_g is the ability shared by a group of tasks, a random walk; θ_k a task's own deviation, whose variance grows by
    Q a step since its last visit; x_k holds 1 and the logits of any number of reference pass rates, none included.

        predict   visited: m = m_k + A_g now − at the last visit,   v = v_k + Q·(steps since), at most 9
                  never:   m = x_k·w + A_g,                         v = exp(z_k·u)
        match     Beta(a, b) whose logit has mean m and variance v
        observe   m′ = ψ(a+s) − ψ(b+f),   v′ = ψ₁(a+s) + ψ₁(b+f)
        ability   one Kalman step of A_g on Σ score/Σ information of the group's tasks, its variance growing by q_A
        weights   of first visits, on what A_g has not explained: w by online Bayesian regression, and u likewise

    Departures from the cited model: moments are matched exactly, not for many counts; A is moved by scores, not by
    empirical logits; the variance of untried tasks is learned and depends on |x| (z_k), as a reference rate near 0
    or 1 says less about the logit. `observe` costs O(B + K), `predict` O(N) elementwise. With one group, A starts
    at exactly 0 since the weight of 1 is the level; with several, their levels differ with variance 1.

    Args:
        references: columns of the pool to use; None uses all of them, an empty list none.
        reference_rollouts: rollouts behind a reference rate, which bound its logit; a low guess is the safer one.
        task_drift: Q, variance per step.
        ability_drift: q_A, variance per step.
    """

    def __init__(
        self,
        references: Sequence[str] | None = None,
        reference_rollouts: float = 8.0,
        task_drift: float = 0.003,
        ability_drift: float = 0.0008,
    ) -> None:
        if not 0 < reference_rollouts < np.inf:
            raise ValueError(f"reference_rollouts={reference_rollouts}; expected a finite positive number.")
        for name, value in (("task_drift", task_drift), ("ability_drift", ability_drift)):
            if not 0 <= value < np.inf:
                raise ValueError(f"{name}={value}; expected a finite number >= 0.")
        self.references = references
        self.reference_rollouts = reference_rollouts
        self.task_drift = task_drift
        self.ability_drift = ability_drift

    def setup(self, features: TaskFeatures) -> None:
        """No task has been tried; its logit is taken to lie near 0.8 times the mean of the references'.

        Raises:
            ValueError: the pool lacks a column named in `references`.
        """
        n = features.num_tasks
        names = sorted(features.references) if self.references is None else self.references
        columns = [reference_columns(features.reference(name), self.reference_rollouts) for name in names]
        self._set_up_weights(n, [column for column in columns if column.shape[1]])
        labels, group = np.unique(features.groups, return_inverse=True)
        self._group = group.astype(np.int64) if len(labels) > 1 else np.zeros(n, dtype=np.int64)
        groups = max(len(labels), 1)
        self.ability = np.zeros(groups)
        self.ability_variance = np.full(groups, 1.0 if groups > 1 else 0.0)
        self.logit = np.zeros(n)  # less the ability at the last visit
        self.variance = np.zeros(n)
        self.last = np.full(n, -1)
        self.step = 0

    def _set_up_weights(self, n: int, references: list[FloatArray]) -> None:
        """x, z and the priors of w and u: means, and precisions in units of one observation."""
        is_logit = np.array([at == 0 for columns in references for at in range(columns.shape[1])], dtype=bool)
        share = 1 / max(len(references), 1)
        size = np.hstack([np.empty((n, 0)), *references])
        self._x = np.hstack([np.ones((n, 1)), size])
        self._z = np.hstack([np.ones((n, 1)), np.abs(size) - np.abs(size).mean(axis=0)])
        self.weights = np.r_[0.0, np.where(is_logit, 0.8 * share, 0.0)]
        self.weight_precision = np.diag(np.r_[0.25, np.full(len(is_logit), 4.0)])
        self.spread = np.r_[np.log(2.0 if references else 6.0), np.full(len(is_logit), 0.5 * share)]
        self.spread_precision = np.diag(np.r_[1.0, np.full(len(is_logit), 10.0)])

    def predict(self, where: Where = ALL) -> Moments:
        """Mean and variance of logit p now, of all tasks (N,) or of some."""
        last = self.last[where]
        untried = last < 0
        kept = self.variance[where]
        variance = np.minimum(kept + self.task_drift * (self.step - last), np.maximum(kept, MOST_DRIFTED))
        mean = self.logit[where].copy()
        if untried.any():
            mean[untried] = self._x[where][untried] @ self.weights
            variance[untried] = np.exp(np.clip(self._z[where][untried] @ self.spread, -4, 4))
        return mean + self.ability[self._group[where]], variance

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """(α, β) now, of all tasks (N,) or of some; some microseconds a task."""
        return match_beta(*self.predict(where))

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """p̂ ~ Beta(α, β) for every task, shape (N,)."""
        return rng.beta(*self.concentrations())

    def mean(self) -> FloatArray:
        """α / (α + β), shape (N,)."""
        alpha, beta = self.concentrations()
        return alpha / (alpha + beta)

    def observe(self, evidence: Evidence) -> None:
        """Updates the step's tasks, their groups' abilities and, by tasks tried for the first time, the weights.

        Evidence without any rollouts is no step: nothing changes, no variance grows.
        """
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        at = evidence.indices
        new = self.last[at] < 0
        alpha, beta = self.concentrations(at)
        prior = logit_moments(alpha, beta)
        posterior = logit_moments(alpha + evidence.successes, beta + evidence.counts - evidence.successes)
        score, information = score_and_information(prior, posterior)
        moved = self._observe_ability(self._group[at], score, information)
        if new.any():
            left = score[new] - information[new] * moved[new]
            self._observe_weights(at[new], prior[1][new], score[new], left, information[new])
        # Had A been known to move, m′ would have moved by v′/v of it; the task keeps only what A did not explain.
        self.logit[at] = posterior[0] + moved * posterior[1] / prior[1] - self.ability[self._group[at]]
        self.variance[at] = posterior[1]
        self.last[at] = self.step
        self.step += 1

    def _observe_ability(self, group: npt.NDArray[np.int64], score: FloatArray, information: FloatArray) -> FloatArray:
        """One Kalman step of each A_g; returns by how much each task's A_g moved, (B,)."""
        self.ability_variance += self.ability_drift
        total = np.bincount(group, information, len(self.ability))
        pull = np.bincount(group, score, len(self.ability))
        shrinkage = 1 / (1 + self.ability_variance * total)
        self.ability_variance *= shrinkage
        moved: FloatArray = self.ability_variance * pull
        self.ability += moved
        return moved[group]

    def _observe_weights(
        self,
        at: npt.NDArray[np.int64],
        variance: FloatArray,
        score: FloatArray,
        left: FloatArray,
        information: FloatArray,
    ) -> None:
        """One step of w and u by first visits, each gradient over the precision gathered so far.

        For v the gradient of the log predictive is (score² − information)/2, times v for log v; it is clipped since
        a single task far from its prediction would throw u off.
        """
        x, z = self._x[at], self._z[at]
        self.weight_precision += x.T @ (x * information[:, None])
        self.weights += np.linalg.solve(self.weight_precision, x.T @ left)
        gradient = np.clip(variance * (score**2 - information) / 2, -2, 2)
        self.spread_precision += z.T @ (z * ((variance * information) ** 2 / 2)[:, None])
        self.spread += np.clip(np.linalg.solve(self.spread_precision, z.T @ gradient), -0.5, 0.5)

    def metrics(self) -> dict[str, float]:
        """Mean ability (logits above the start) over tasks, share of tasks tried, typical deviation of untried ones."""
        return {
            "belief/ability": float(self.ability[self._group].mean()),
            "belief/tried": float((self.last >= 0).mean()),
            "belief/untried_deviation": float(np.exp(self.spread[0] / 2)),
        }

    _ARRAYS = (
        "logit", "variance", "last", "ability", "ability_variance",
        "weights", "weight_precision", "spread", "spread_precision",
    )  # fmt: skip

    def state_dict(self) -> State:
        """The tasks' posteriors, the abilities and the regressions."""
        return {name: getattr(self, name).copy() for name in self._ARRAYS} | {"step": self.step}

    def load_state_dict(self, state: State) -> None:
        """Takes over such a state.

        Raises:
            ValueError: the state belongs to other references, groups or another number of tasks.
        """
        for name in self._ARRAYS:
            if state[name].shape != getattr(self, name).shape:
                raise ValueError(
                    f"the saved belief's {name!r} has shape {tuple(state[name].shape)}, this one's "
                    f"{getattr(self, name).shape}. Resume with the pool and `references` of the checkpoint's config."
                )
        for name in self._ARRAYS:
            setattr(self, name, np.array(state[name], dtype=getattr(self, name).dtype))
        self.step = int(state["step"])
