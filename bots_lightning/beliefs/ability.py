"""The ability belief: what a policy learns on some tasks moves all of their group."""

# Shapes: N tasks in the pool, B tasks in the step, P profiles, F regressors of a profile, K groups.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import ALL, Belief, FloatArray, State, TaskFeatures, Where
from bots_lightning.beliefs.design import Design, design_of
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.logit_beta import logit_cells, logit_grid, logit_moments, match_beta_from_grid
from bots_lightning.beliefs.reward_shape import RewardShape

IntArray = npt.NDArray[np.int64]
Moments = tuple[FloatArray, FloatArray]  # mean and variance of a logit

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


class AbilityBelief(Belief):
    """A dynamic beta-binomial generalized linear model (West, Harrison & Migon 1985) of all tasks together.

        logit p_k(t) = x_k·w + A_g(k)(t) + θ_k(t)

    A_g is the ability shared by a group of tasks, a random walk; θ_k a task's own deviation, whose variance grows by
    Q a step since its last visit; x_k holds 1, the logits of any number of reference pass rates, none included, and
    any further numbers, labels or embeddings.

        predict   visited: m = m_k + A_g now − at the last visit,   v = v_k + Q·(steps since), at most 9
                  never:   m = x_k·w + A_g,                         v = exp(z_k·u)
        match     Beta(a, b) whose logit has mean m and variance v
        observe   m′ = ψ(a+s) − ψ(b+f),   v′ = ψ₁(a+s) + ψ₁(b+f)
        late      match v − δ, keep v′ + δ,   δ = min(Q·age, v − v_k) if visited, else 0; A_g likewise by q_A·age
        ability   one Kalman step of A_g on Σ score/Σ information of the group's tasks, its variance growing by q_A
        weights   of first visits, on what A_g has not explained: w by online Bayesian regression, and u likewise

    Departures from the cited model: moments are matched exactly, not for many counts; A is moved by scores, not by
    empirical logits; the variance of untried tasks is learned and depends on |x| (z_k), as a reference rate near 0
    or 1 says less about the logit; rewards other than 0 and 1 are counted as coin flips (`RewardShape`). `observe`
    costs O(B + K), `predict` O(N) elementwise. Tasks of which the same is known share a profile, so that x is kept
    once for all of them; beyond 65,536 profiles, references and numbers are rounded. With one group, A starts at
    exactly 0 since the weight of 1 is the level; with several, their levels differ with variance 1.

    Args:
        references: columns of the pool to use; None uses all of them, an empty list none.
        reference_rollouts: rollouts behind a reference rate, which bound its logit; a low guess is the safer one.
        features: further columns with numbers, such as `log_prompt_length`, or with lists of numbers (embeddings).
        categories: further columns with labels, such as a level or a family.
        task_drift: Q, variance per step.
        ability_drift: q_A, variance per step.
    """

    def __init__(
        self,
        references: Sequence[str] | None = None,
        reference_rollouts: float = 8.0,
        features: Sequence[str] = (),
        categories: Sequence[str] = (),
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
        self.features = features
        self.categories = categories
        self.task_drift = task_drift
        self.ability_drift = ability_drift

    def setup(self, features: TaskFeatures) -> None:
        """No task has been tried; its logit is taken to lie near 0.8 times the mean of the references'.

        Raises:
            ValueError: the pool lacks a column named in `references`, `features` or `categories`.
        """
        n, groups = features.num_tasks, len(features.group_names)
        self._scaled_on = n
        self._use(features, self._read(features))
        self.weights, self.weight_precision = self._design.weights.copy(), np.diag(self._design.weight_precision)
        self.spread, self.spread_precision = self._design.spread.copy(), np.diag(self._design.spread_precision)
        self.ability = np.zeros(groups)
        self.ability_variance = np.full(groups, 1.0 if groups > 1 else 0.0)
        self._shape = RewardShape(groups)
        self.logit = np.zeros(n)  # less the ability at the last visit
        self.variance = np.zeros(n)
        self.last = np.full(n, -1, dtype=np.int32)
        self._tried = 0  # tasks
        self.step = 0

    def _read(self, features: TaskFeatures) -> Design:
        names = sorted(features.references) if self.references is None else self.references
        rollouts, scaled_on = self.reference_rollouts, self._scaled_on
        return design_of(features, names, rollouts, self.features, self.categories, scaled_on)

    def _use(self, features: TaskFeatures, design: Design) -> None:
        self._design = design
        self._profile = self._design.profiles.labels
        self._group_of_profile = features.group_codes[self._design.profiles.members].astype(np.int64)
        self._forget_profiles()

    def _forget_profiles(self) -> None:
        """What `cells` keeps between calls: the cell of every profile, (P,)."""
        self._cell_of_profile: npt.NDArray[np.int32] | None = None

    def _group(self, where: Where) -> IntArray:
        return self._group_of_profile.take(self._profile[where])

    def _untried(self, profiles: Where = ALL) -> Moments:
        """Mean and variance of logit p of profiles whose tasks nobody has tried, (P,) or some."""
        mean = self._design.x[profiles] @ self.weights + self.ability[self._group_of_profile[profiles]]
        return mean, np.exp(np.clip(self._design.z[profiles] @ self.spread, -4, 4))

    def predict(self, where: Where = ALL) -> Moments:
        """Mean and variance of logit p now, of all tasks (N,) or of some."""
        last, kept = self.last[where], self.variance[where]
        mean = self.logit[where] + self.ability[self._group(where)]
        variance = np.minimum(kept + self.task_drift * (self.step - last), np.maximum(kept, MOST_DRIFTED))
        untried = last < 0
        if untried.any():
            mean[untried], variance[untried] = self._untried(self._profile[where][untried])
        return mean, variance

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """(α, β) now, of all tasks (N,) or of some; some microseconds a task."""
        return match_beta_from_grid(*self.predict(where))

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """Cells of 1/16 of the logit's mean and of its log variance."""
        return logit_grid()

    def cells(self, where: slice) -> npt.NDArray[np.int32]:
        """The cell of each task: that of its profile, or its own once it has been tried."""
        if self._cell_of_profile is None:
            self._cell_of_profile = logit_cells(*self._untried())
        tried = self.last[where] >= 0
        count = np.count_nonzero(tried)
        if count == len(tried):
            return self._cells_of_tried(where)
        cells = self._cell_of_profile.take(self._profile[where])
        if count:
            places = np.flatnonzero(tried)
            cells[places] = self._cells_of_tried(where.start + places)
        return cells

    def _cells_of_tried(self, where: Where) -> npt.NDArray[np.int32]:
        """`predict` and `logit_cells` in single precision."""
        kept = self.variance[where].astype(np.float32)
        variance = (self.step - self.last[where]).astype(np.float32)
        variance *= np.float32(self.task_drift)
        variance += kept
        np.clip(variance, 0, MOST_DRIFTED, out=variance)  # in numpy faster than the minimum with a number
        np.maximum(variance, kept, out=variance)
        mean = self.logit[where].astype(np.float32)
        ability = self.ability.astype(np.float32)
        mean += ability[0] if len(ability) == 1 else ability.take(self._group(where))
        return logit_cells(mean, variance)

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """p̂ ~ Beta(α, β) for every task, shape (N,)."""
        return rng.beta(*self.concentrations())

    def mean(self) -> FloatArray:
        """α / (α + β), shape (N,)."""
        alpha, beta = self.concentrations()
        return alpha / (alpha + beta)

    @property
    def reward_shape(self) -> RewardShape:
        """Of each group; rewards of 0 and 1 leave it at coin flips."""
        return self._shape

    def observe(self, evidence: Evidence) -> None:
        """Updates the step's tasks, their groups' abilities and, by tasks tried for the first time, the weights.

        Evidence without any rollouts is no step: nothing changes, no variance grows. Evidence of an earlier policy is
        about the logits of then: they are updated with the variance they had, and what they drifted since is added.
        """
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        at = evidence.indices
        group, new = self._group(at), self.last[at] < 0
        self._shape.observe(evidence, group)
        evidence = self._shape.as_coin_flips(evidence, group)
        mean, variance = self.predict(at)
        drifted = self._drifted(evidence, variance)
        alpha, beta = match_beta_from_grid(mean, variance - drifted)
        prior = logit_moments(alpha, beta)
        posterior = logit_moments(alpha + evidence.successes, beta + evidence.counts - evidence.successes)
        score, information = score_and_information(prior, posterior)
        moved = self._observe_ability(group, score, information, evidence.ages)
        if new.any():
            left = score[new] - information[new] * moved[new]
            self._observe_weights(self._profile[at[new]], prior[1][new], score[new], left, information[new])
        # Had A been known to move, m′ would have moved by v′/v of it; the task keeps only what A did not explain.
        self.logit[at] = posterior[0] + moved * posterior[1] / prior[1] - self.ability[group]
        self.variance[at] = posterior[1] + drifted
        self.last[at] = self.step
        self._tried += int(np.count_nonzero(new))
        self.step += 1
        self._forget_profiles()

    def _drifted(self, evidence: Evidence, variance: FloatArray) -> FloatArray:
        """(B,) how much of each variance now is drift since the evidence was sampled; none is of an untried task's."""
        at = evidence.indices
        since_visit = np.where(self.last[at] < 0, 0.0, variance - self.variance[at])
        return np.minimum(evidence.ages * self.task_drift, since_visit)

    def _observe_ability(
        self, group: IntArray, score: FloatArray, information: FloatArray, ages: FloatArray
    ) -> FloatArray:
        """One Kalman step of each A_g of the oldest evidence's time; returns how far each task's A_g moved, (B,)."""
        self.ability_variance += self.ability_drift
        oldest = np.zeros(len(self.ability))
        np.maximum.at(oldest, group, ages)
        drifted = np.minimum(oldest * self.ability_drift, self.ability_variance)
        self.ability_variance -= drifted
        total = np.bincount(group, information, len(self.ability))
        pull = np.bincount(group, score, len(self.ability))
        self.ability_variance *= 1 / (1 + self.ability_variance * total)
        moved: FloatArray = self.ability_variance * pull
        self.ability += moved
        self.ability_variance += drifted
        return moved[group]

    def _observe_weights(
        self, profile: IntArray, variance: FloatArray, score: FloatArray, left: FloatArray, information: FloatArray
    ) -> None:
        """One step of w and u by first visits, each gradient over the precision gathered so far.

        For v the gradient of the log predictive is (score² − information)/2, times v for log v; it is clipped since
        a single task far from its prediction would throw u off.
        """
        x, z = self._design.x[profile], self._design.z[profile]
        self.weight_precision += x.T @ (x * information[:, None])
        self.weights += np.linalg.solve(self.weight_precision, x.T @ left)
        gradient = np.clip(variance * (score**2 - information) / 2, -2, 2)
        self.spread_precision += z.T @ (z * ((variance * information) ** 2 / 2)[:, None])
        self.spread += np.clip(np.linalg.solve(self.spread_precision, z.T @ gradient), -0.5, 0.5)

    def add_tasks(self, features: TaskFeatures) -> None:
        """The new tasks are predicted as all untried ones, from their columns and the ability of their group.

        A group that is new starts at the mean ability of the others.

        Raises:
            ValueError: a label is new in `categories`, or a column has its first gap; nothing has changed then.
        """
        old, design, before = len(self.last), self._read(features), self._design.x.shape[1]
        if design.x.shape[1] != before:
            raise ValueError(
                f"with the added tasks there are {design.x.shape[1]} regressors instead of {before}: a label that is "
                "new in `categories`, or a column that had no gaps before. Start a new run."
            )
        self._use(features, design)
        more, groups = features.num_tasks - old, len(features.group_names) - len(self.ability)
        self.logit, self.variance = (np.concatenate([v, np.zeros(more)]) for v in (self.logit, self.variance))
        self.last = np.concatenate([self.last, np.full(more, -1, dtype=np.int32)])
        self.ability = np.concatenate([self.ability, np.full(groups, self.ability.mean())])
        self.ability_variance = np.concatenate([self.ability_variance, np.full(groups, 1.0)])
        self._shape = self._shape.grown(len(self.ability))
        self._forget_profiles()

    def metrics(self) -> dict[str, float]:
        """Mean ability (logits above the start) over profiles, share of tasks tried, deviation of untried ones."""
        return {
            "belief/ability": float(
                np.average(self.ability[self._group_of_profile], weights=self._design.profiles.sizes)
            ),
            "belief/tried": self._tried / len(self.last),
            "belief/untried_deviation": float(np.exp(self.spread[0] / 2)),
        }

    _ARRAYS = (
        "logit", "variance", "last", "ability", "ability_variance",
        "weights", "weight_precision", "spread", "spread_precision",
    )  # fmt: skip

    def state_dict(self) -> State:
        """The tasks' posteriors, the abilities and the regressions."""
        return {name: getattr(self, name).copy() for name in self._ARRAYS} | {
            "step": self.step,
            "reward_shape": self._shape.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Takes over such a state.

        Raises:
            ValueError: the state belongs to other references, groups or another number of tasks.
        """
        for name in self._ARRAYS:
            if state[name].shape != getattr(self, name).shape:
                raise ValueError(
                    f"the saved belief's {name!r} has shape {tuple(state[name].shape)}, this one's "
                    f"{getattr(self, name).shape}. Resume with the pool, `references`, `features` and `categories` of "
                    "the checkpoint's config."
                )
        for name in self._ARRAYS:
            setattr(self, name, np.array(state[name], dtype=getattr(self, name).dtype))
        self.step, self._tried = int(state["step"]), int(np.count_nonzero(self.last >= 0))
        self._shape.load_state_dict(state["reward_shape"])
        self._forget_profiles()
