"""The belief of BOTS: one Beta posterior per task, updated lazily."""

# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task, P profiles.

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs.belief import ALL, FloatArray, State, TaskFeatures, Where
from bots_lightning.beliefs.beta_posterior import BetaPosterior, octave_cells
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.implicit import ReferenceInterpolation
from bots_lightning.beliefs.profiles import profiles_of
from bots_lightning.beliefs.pseudo_counts import PseudoCounts
from bots_lightning.options import check_numbers

Float32Array = npt.NDArray[np.float32]


def generalized_update(
    concentration: FloatArray,
    explicit: FloatArray,
    implicit: FloatArray,
    *,
    prior: float,
    forgetting: float,
    implicit_weight: float,
) -> FloatArray:
    """One step of the generalized posterior update of BOTS (arXiv:2510.26374), for α and likewise for β.

        α_k ← (1−λ) α_k + λ α0 + (1−ρ) s_k + ρ s̃_k

    This is the dense form; `BetaBelief` computes the same without touching the tasks that are not in the step.

    Args:
        concentration: (N,) α (or β) before the step.
        explicit: (N,) success (or failure) counts of the step's tasks, 0 for all others.
        implicit: (N,) pseudo-counts: the same counts for a task of the step, G·p̃ (or G·(1−p̃)) for another.
        prior: α0 (or β0).
        forgetting: λ in [0, 1]; larger values forget faster.
        implicit_weight: ρ in [0, 1].

    Returns:
        (N,) α (or β) after the step.
    """
    remembered = (1 - forgetting) * concentration + forgetting * prior
    return remembered + (1 - implicit_weight) * explicit + implicit_weight * implicit


class BetaBelief(BetaPosterior):
    """A Beta(α, β) posterior for every task: explicit counts, implicit evidence and forgetting.

    The posterior of BOTS (arXiv:2510.26374). Special cases: ρ = 0 uses direct evidence only, ρ = λ = 1 predictions
    only. A task without a prediction receives no implicit evidence: its posterior returns to the prior at rate λ.
    Rewards other than 0 and 1 are converted to counts of Bernoulli trials (`RewardDispersion`), which the published
    code does not do.

    A step costs O(B), whatever N is. With S_k the implicit evidence of a task that was never visited (`PseudoCounts`),

        α_k = α0 + S_k + (1−λ)^(steps since its last visit) D_k,   D_k ← (1−λ)(α_k − α0) + s_k − S_k at a visit,

    which equals `generalized_update` of all tasks at every step.

    Args:
        forgetting: λ, the share of the posterior that returns to the prior at each step.
        implicit_weight: ρ, the weight of a predicted pass rate relative to a counted one.
        prior: (α0, β0).
        implicit: predicts the pass rates of tasks that are not in a step; None uses direct evidence only.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        forgetting: float = 0.1,
        implicit_weight: float = 0.1,
        prior: tuple[float, float] = (1.0, 1.0),
        implicit: ReferenceInterpolation | None = None,
    ) -> None:
        check_numbers(0, high=1, forgetting=forgetting, implicit_weight=implicit_weight)
        super().__init__(prior)
        self.forgetting = forgetting
        self.implicit_weight = implicit_weight
        self.implicit = implicit

    def setup(self, features: TaskFeatures) -> None:
        """Starts every task from the prior and reads the references."""
        super().setup(features)
        self.step = 0
        self.last = np.zeros(features.num_tasks, dtype=np.int32)
        self._powers: FloatArray = np.empty(0)  # (1−λ)^n, a look-up table
        self._coarse_powers: Float32Array = np.empty(0, dtype=np.float32)  # the same in single precision
        self._largest = 2.0**16  # upper bound of |D_k|; hardly any run comes near
        self._pseudo = PseudoCounts()
        if self.implicit is not None:
            self.implicit.setup(features)
        self._profile(features)

    def _profile(self, features: TaskFeatures) -> None:
        """Groups tasks by their references; without references, all tasks are alike."""
        self._profiles = profiles_of(features.num_tasks, []) if self.implicit is None else self.implicit.profiles
        self._receive()

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """(α, β) of all tasks, each (N,), or of the tasks in `where`."""
        successes, failures = self._beyond_prior(where)
        return self.prior[0] + successes, self.prior[1] + failures

    def _beyond_prior(self, where: Where) -> tuple[FloatArray, FloatArray]:
        """α − α0 and β − β0."""
        if self.step >= len(self._powers):
            self._powers = (1 - self.forgetting) ** np.arange(2.0 * self.step + 64)
        kept = self._powers[self.step - self.last[where]]
        successes, failures = self._received(where)
        return successes + kept * self.successes[where], failures + kept * self.failures[where]

    def observe(self, evidence: Evidence) -> None:
        """Performs one generalized posterior update of all N tasks.

        The G of the pseudo-counts is the mean count of the step's tasks, after rows of the same task are summed.
        Evidence without any rollouts is ignored: nothing changes, nothing is forgotten. Evidence of an earlier policy
        is weighted by (1−λ)^age, what would be left of it had it been observed in time; the relative ability is
        computed from it at full weight.
        """
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        at = evidence.indices
        before = self._beyond_prior(at)
        evidence = self._as_bernoulli_trials(evidence)
        ability = None
        if self.implicit is not None:
            self.implicit.observe(evidence)
            ability = self.implicit.ability
        if evidence.ages.any():
            evidence = evidence.weighted((1 - self.forgetting) ** evidence.ages)
        self._pseudo.add(ability, self.implicit_weight * evidence.counts.mean(), self.forgetting)
        self._receive()
        self.step += 1
        self.last[at] = self.step
        successes, failures = self._received(at)
        kept = 1 - self.forgetting
        self.successes[at] = kept * before[0] + evidence.successes - successes
        self.failures[at] = kept * before[1] + (evidence.counts - evidence.successes) - failures
        self._note_largest(at)

    def _note_largest(self, where: Where = ALL) -> None:
        """Updates the upper bound of |D_k|."""
        for own in (self.successes[where], self.failures[where]):
            self._largest = max(self._largest, float(own.max(initial=0)), -float(own.min(initial=0)))

    # --- implicit evidence of tasks that were never visited ------------------------------------------------------

    def _receive(self) -> None:
        """Computes it for every profile of references: (P,) successes and failures, and the cells of their tasks."""
        if self.implicit is None:
            self._of_profile = np.zeros(1), np.zeros(1)
        else:
            self._of_profile = self._received_by(*self.implicit.references(self._profiles.members))
        pairs = zip(self.prior, self._of_profile, strict=True)
        self._coarse_of_profile = [(prior + received).astype(np.float32) for prior, received in pairs]
        self._cell_of_profile = octave_cells(*self._coarse_of_profile)
        self._least = max(min(float(values.min()) for values in self._coarse_of_profile), 1e-30)

    def _received_by(self, weak: FloatArray, strong: FloatArray) -> tuple[FloatArray, FloatArray]:
        successes = self._pseudo.successes(weak, strong)
        known = np.isfinite(successes)
        return np.where(known, successes, 0.0), np.where(known, self._pseudo.total - successes, 0.0)

    def _received(self, where: Where) -> tuple[FloatArray, FloatArray]:
        """Implicit successes and failures of all tasks, each (N,), or of the tasks in `where`."""
        if not self._profiles.exact:
            assert self.implicit is not None
            return self._received_by(*self.implicit.references(where))
        profile = self._profiles.labels[where]
        return self._of_profile[0][profile], self._of_profile[1][profile]

    def cells(self, where: slice) -> npt.NDArray[np.int32]:
        """The cell of each task: that of its profile, or its own if a visit to it is not yet forgotten."""
        cells = self._cell_of_profile.take(self._profiles.labels[where])
        visited = np.flatnonzero(self.last[where] > max(0, self.step - self._steps_remembered()))
        if len(visited):
            cells[visited] = self._cells_of_visited(where if len(visited) == len(cells) else where.start + visited)
        return cells

    def _steps_remembered(self) -> int:
        """Steps after which a visit no longer changes a sum of single precision."""
        if not 0 < self.forgetting < 1:
            return self.step
        return math.ceil(math.log(2.0**-26 * self._least / self._largest) / math.log1p(-self.forgetting))

    def _cells_of_visited(self, where: Where) -> npt.NDArray[np.int32]:
        """`concentrations` and `octave_cells` in single precision; the implicit evidence is that of the profile."""
        if self.step >= len(self._coarse_powers):
            self._coarse_powers = np.float32(1 - self.forgetting) ** np.arange(2.0 * self.step + 64, dtype=np.float32)
        kept = self._coarse_powers.take(self.step - self.last[where])
        profile = self._profiles.labels[where]
        concentrations = []
        for own, coarse in zip((self.successes, self.failures), self._coarse_of_profile, strict=True):
            values = own[where].astype(np.float32)
            values *= kept
            values += coarse.take(profile)
            concentrations.append(values)
        return octave_cells(*concentrations)

    def add_tasks(self, features: TaskFeatures) -> None:
        """Adds tasks, which are predicted from their references or else start at their group's mean pass rate."""
        old = len(self.successes)
        super().add_tasks(features)
        self.last = np.concatenate([self.last, np.full(features.num_tasks - old, self.step, dtype=np.int32)])
        if self.implicit is not None:
            self.implicit.read(features)
            predicted = old + np.flatnonzero(np.isfinite(self.implicit.predict(slice(old, None))))
            self.successes[predicted] = self.failures[predicted] = 0.0
        self._profile(features)

    def metrics(self) -> dict[str, float]:
        """Adds the policy's ability relative to the references: 0 is the weak one, 1 the strong one."""
        metrics = super().metrics()
        if self.implicit is not None and self.implicit.ability is not None:
            metrics["belief/relative_ability"] = self.implicit.ability
        return metrics

    def state_dict(self) -> State:
        """Explicit evidence, last visits and implicit evidence."""
        state = super().state_dict() | {"last": self.last.copy(), "step": self.step}
        if self.implicit is not None:
            state["implicit"] = self.implicit.state_dict() | {"pseudo_counts": self._pseudo.state_dict()}
        return state

    def load_state_dict(self, state: State) -> None:
        """Restores explicit evidence, last visits and implicit evidence.

        Raises:
            ValueError: only one of state and belief has an implicit predictor.
        """
        if ("implicit" in state) != (self.implicit is not None):
            raise ValueError(
                f"the saved belief has {'an' if 'implicit' in state else 'no'} implicit predictor, this one has "
                f"{'none' if self.implicit is None else 'one'}. Resume with the `implicit` of the checkpoint's config."
            )
        super().load_state_dict(state)
        self.last, self.step = np.array(state["last"], dtype=np.int32), int(state["step"])
        self._note_largest()
        if self.implicit is not None:
            self.implicit.load_state_dict(state["implicit"])
            self._pseudo.load_state_dict(state["implicit"]["pseudo_counts"])
        self._receive()
