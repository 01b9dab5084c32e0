"""The ability belief: what a policy learns on some tasks changes the prediction of all tasks of their group."""

# Shapes: N tasks in the pool, B tasks in the step, P profiles, F regressors of a profile, K groups.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import ALL, Belief, FloatArray, State, TaskFeatures, Where
from bots_lightning.beliefs.design import Design, design_of
from bots_lightning.beliefs.dispersion import RewardDispersion
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.first_visits import FirstVisitRegression
from bots_lightning.beliefs.group_ability import GroupAbility, IntArray
from bots_lightning.beliefs.logit_beta import LARGEST_MEAN, LastMatch, logit_cells, logit_grid, logit_moments
from bots_lightning.beliefs.tweedie import Moments, score_and_information
from bots_lightning.options import check_numbers

# Upper bound of a visited task's variance: a wider logit would mean p near 0 or 1, without any evidence for it.
MOST_DRIFTED = 9.0


class AbilityBelief(Belief):
    """A dynamic beta-binomial generalized linear model (West, Harrison & Migon 1985) of all tasks together.

        logit p_k(t) = x_k·w + A_g(k)(t) + θ_k(t)

    A_g is the ability shared by a group of tasks, a random walk; θ_k is a task's own deviation, whose variance grows
    by Q per step since its last visit; x_k holds 1, the logits of any number of reference pass rates (or none), and
    optional numbers, labels or embeddings.

        predict   visited: m = m_k + A_g now − at the last visit,   v = v_k + Q·(steps since), at most 9
                  never:   m = x_k·w + A_g,                         v = exp(z_k·u)
        match     Beta(a, b) whose logit has mean m and variance v
        observe   m′ = ψ(a+s) − ψ(b+f),   v′ = ψ₁(a+s) + ψ₁(b+f)
        late      match v − δ, keep v′ + δ,   δ = min(Q·age, v − v_k) if visited, else 0; A_g likewise by q_A·age
        ability   one Kalman step of A_g on Σ score/Σ information of the group's tasks, its variance growing by q_A
        weights   at first visits, on what A_g has not explained: w by online Bayesian regression, and u likewise

    Departures from the cited model: moments are matched exactly, not only for many counts; A is updated by scores, not
    by empirical logits; the variance of unvisited tasks is learned and depends on |x| (z_k), as a reference rate near
    0 or 1 is less informative about the logit; rewards other than 0 and 1 are converted to counts of Bernoulli trials
    (`RewardDispersion`). `observe` costs O(B + K), `predict` O(N) elementwise. Tasks with the same features share a
    profile, so that x is stored once for all of them; beyond 65,536 profiles, references and numbers are rounded.

    Args:
        references: reference columns of the pool to use; None uses all of them, an empty list none.
        reference_rollouts: rollouts from which a reference rate was measured, which bounds its logit; if unknown,
            prefer a low number.
        features: further columns with numbers, such as `log_prompt_length`, or with lists of numbers (embeddings).
        categories: further columns with labels, such as a level or a family.
        task_drift: Q, variance per step.
        ability_drift: q_A, variance per step.

    Raises:
        ValueError: a number is out of range.
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
        check_numbers(0, above=True, below=True, reference_rollouts=reference_rollouts)
        check_numbers(0, below=True, task_drift=task_drift, ability_drift=ability_drift)
        self.references = references
        self.reference_rollouts = reference_rollouts
        self.features = features
        self.categories = categories
        self.task_drift = task_drift
        self.ability_drift = ability_drift

    def setup(self, features: TaskFeatures) -> None:
        """Starts from the prior: a task's logit is near 0.8 times the mean of its references' logits.

        Args:
            features: of the pool's tasks.

        Raises:
            ValueError: the pool lacks a column named in `references`, `features` or `categories`.
        """
        n, groups = features.num_tasks, len(features.group_names)
        self._scaled_on = n
        self._use(features, self._read(features))
        self.regression = FirstVisitRegression(self._design)
        self.ability = GroupAbility(groups, self.ability_drift)
        self._dispersion = RewardDispersion(groups)
        self.logit = np.zeros(n)  # less the ability at the last visit
        self.variance = np.zeros(n)
        self.last = np.full(n, -1, dtype=np.int32)  # step of the last visit; -1 before the first
        self._num_visited = 0  # number of tasks that were visited
        self._match = LastMatch()
        self.step = 0

    def _read(self, features: TaskFeatures) -> Design:
        names = sorted(features.references) if self.references is None else self.references
        rollouts, scaled_on = self.reference_rollouts, self._scaled_on
        return design_of(features, names, rollouts, self.features, self.categories, scaled_on)

    def _use(self, features: TaskFeatures, design: Design) -> None:
        self._design = design
        self._profile = self._design.profiles.labels
        self._group_of_profile = features.group_codes[self._design.profiles.members].astype(np.int64)
        self._forget_cells()

    def _forget_cells(self) -> None:
        """Clears the cells of the profiles, (P,), which `cells` keeps between calls."""
        self._cell_of_profile: npt.NDArray[np.int32] | None = None

    def _group(self, where: Where) -> IntArray:
        return self._group_of_profile.take(self._profile[where])

    def _unvisited(self, profiles: Where = ALL) -> Moments:
        """Mean and variance of the logit of profiles' unvisited tasks, each (P,) or as long as `profiles`."""
        mean, variance = self.regression.predict(self._design.x[profiles], self._design.z[profiles])
        return mean + self.ability.mean[self._group_of_profile[profiles]], variance

    def predict(self, where: Where = ALL) -> Moments:
        """Current mean and variance of logit p of all tasks, each (N,), or of the tasks in `where`."""
        last, kept = self.last[where], self.variance[where]
        mean = self.logit[where] + self.ability.mean[self._group(where)]
        variance = np.minimum(kept + self.task_drift * (self.step - last), np.maximum(kept, MOST_DRIFTED))
        unvisited = last < 0
        if unvisited.any():
            mean[unvisited], variance[unvisited] = self._unvisited(self._profile[where][unvisited])
        return mean, variance

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """Current (α, β) of all tasks, each (N,), or of the tasks in `where`; takes some microseconds per task."""
        return self._match(*self.predict(where))

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """(α, β) of cells that are 1/16 wide in the logit's mean and in its log variance."""
        return logit_grid()

    def cells(self, where: slice) -> npt.NDArray[np.int32]:
        """The cell of each task: that of its profile, or its own if it was visited."""
        if self._cell_of_profile is None:
            self._cell_of_profile = logit_cells(*self._unvisited())
        visited = self.last[where] >= 0
        count = np.count_nonzero(visited)
        if count == len(visited):
            return self._cells_of_visited(where)
        cells = self._cell_of_profile.take(self._profile[where])
        if count:
            places = np.flatnonzero(visited)
            cells[places] = self._cells_of_visited(where.start + places)
        return cells

    def _cells_of_visited(self, where: Where) -> npt.NDArray[np.int32]:
        """`predict` and `logit_cells` in single precision, for visited tasks."""
        kept = self.variance[where].astype(np.float32)
        variance = (self.step - self.last[where]).astype(np.float32)
        variance *= np.float32(self.task_drift)
        variance += kept
        np.clip(variance, 0, MOST_DRIFTED, out=variance)  # faster than np.minimum
        np.maximum(variance, kept, out=variance)
        mean = self.logit[where].astype(np.float32)
        ability = self.ability.mean.astype(np.float32)
        mean += ability[0] if len(ability) == 1 else ability.take(self._group(where))
        return logit_cells(mean, variance)

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """p̂ ~ Beta(α, β) for every task, shape (N,)."""
        return rng.beta(*self.concentrations())

    def mean(self) -> FloatArray:
        """α / (α + β) of every task, shape (N,)."""
        alpha, beta = self.concentrations()
        return alpha / (alpha + beta)

    @property
    def reward_dispersion(self) -> RewardDispersion:
        """Dispersion of each group's rewards; 1 for rewards of 0 and 1."""
        return self._dispersion

    def observe(self, evidence: Evidence) -> None:
        """Updates the step's tasks, their groups' abilities and, by first visits, the regression.

        Evidence without any rollouts is ignored: nothing changes, no variance grows. Evidence of an earlier policy is
        about the logits of that time: they are updated with the variance they had then, and their drift since is
        added afterwards.
        """
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        at = evidence.indices
        group, new = self._group(at), self.last[at] < 0
        self._dispersion.observe(evidence, group)
        evidence = self._dispersion.as_bernoulli_trials(evidence, group)
        mean, variance = self.predict(at)
        drifted = self._drifted(evidence, variance)
        prior = np.clip(mean, -LARGEST_MEAN, LARGEST_MEAN), variance - drifted
        alpha, beta = self._match(*prior)
        posterior = logit_moments(alpha + evidence.successes, beta + evidence.counts - evidence.successes)
        score, information = score_and_information(prior, posterior)
        moved = self.ability.observe(group, score, information, evidence.ages)
        if new.any():
            self._observe_first(self._profile[at[new]], prior[1][new], score[new], moved[new], information[new])
        # Had A been known to move, m′ would have moved by v′/v of it; the task keeps only what A did not explain.
        self.logit[at] = posterior[0] + moved * posterior[1] / prior[1] - self.ability.mean[group]
        self.variance[at] = posterior[1] + drifted
        self.last[at] = self.step
        self._num_visited += int(np.count_nonzero(new))
        self.step += 1
        self._forget_cells()

    def _observe_first(
        self, profile: IntArray, variance: FloatArray, score: FloatArray, moved: FloatArray, information: FloatArray
    ) -> None:
        """Updates the regression by tasks of these profiles that were visited for the first time."""
        self.regression.observe(
            self._design.x[profile],
            self._design.z[profile],
            variance=variance,
            score=score,
            unexplained=score - information * moved,
            information=information,
        )

    def _drifted(self, evidence: Evidence, variance: FloatArray) -> FloatArray:
        """(B,) how much of each variance is drift since the evidence was sampled; 0 for tasks without a visit."""
        at = evidence.indices
        since_visit = np.where(self.last[at] < 0, 0.0, variance - self.variance[at])
        return np.minimum(evidence.ages * self.task_drift, since_visit)

    def add_tasks(self, features: TaskFeatures) -> None:
        """Adds tasks, which are predicted from their columns and the ability of their group.

        A new group starts at the mean ability of the others.

        Args:
            features: of the whole pool; its first tasks are those known before, in the same order.

        Raises:
            ValueError: `categories` has a new label, or a column has its first missing value; nothing has changed
                then.
        """
        old, design, before = len(self.last), self._read(features), self._design.x.shape[1]
        if design.x.shape[1] != before:
            raise ValueError(
                f"the added tasks change the number of regressors from {before} to {design.x.shape[1]}: there is "
                "a label that is new in `categories`, or a column has its first missing value. Start a new run."
            )
        self._use(features, design)
        more = features.num_tasks - old
        self.logit, self.variance = (np.concatenate([v, np.zeros(more)]) for v in (self.logit, self.variance))
        self.last = np.concatenate([self.last, np.full(more, -1, dtype=np.int32)])
        self.ability.grow(len(features.group_names))
        self._dispersion = self._dispersion.grown(len(features.group_names))

    def metrics(self) -> dict[str, float]:
        """Mean ability over tasks (in logits above the start), share of visited tasks, deviation of the others."""
        ability, sizes = self.ability.mean[self._group_of_profile], self._design.profiles.sizes
        return {
            "belief/ability": float(np.average(ability, weights=sizes)),
            "belief/tried": self._num_visited / len(self.last),
            "belief/untried_deviation": float(np.exp(self.regression.spread[0] / 2)),
        }

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that `observe` changes, by name."""
        own: dict[str, npt.NDArray[Any]] = {"logit": self.logit, "variance": self.variance, "last": self.last}
        return own | self.ability.arrays() | self.regression.arrays()

    def state_dict(self) -> State:
        """The tasks' posteriors, the abilities and the regression."""
        arrays = {name: array.copy() for name, array in self._arrays().items()}
        return arrays | {"step": self.step, "reward_dispersion": self._dispersion.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restores posteriors, abilities and regression.

        Raises:
            ValueError: the state belongs to other references, groups or another number of tasks.
        """
        arrays = self._arrays()
        for name, array in arrays.items():
            if state[name].shape != array.shape:
                raise ValueError(
                    f"the saved belief's {name!r} has shape {tuple(state[name].shape)}, this one's {array.shape}. "
                    "Resume with the pool, `references`, `features` and `categories` of the checkpoint's config."
                )
        for name, array in arrays.items():
            array[...] = state[name]
        self.step, self._num_visited = int(state["step"]), int(np.count_nonzero(self.last >= 0))
        self._dispersion.load_state_dict(state["reward_dispersion"])
        self._forget_cells()
