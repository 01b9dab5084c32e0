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

    The dense form; `BetaBelief` arrives at the same without touching the tasks that were not tried.

    Args:
        concentration: (N,) α (or β) before the step.
        explicit: (N,) success (or failure) counts of the tasks that were tried, 0 for all others.
        implicit: (N,) pseudo-counts: the same counts for a task that was tried, G·p̃ (or G·(1−p̃)) for another.
        prior: α0 (or β0).
        forgetting: λ in [0, 1]; larger forgets faster.
        implicit_weight: ρ in [0, 1].

    Returns:
        (N,) α (or β) after the step.
    """
    remembered = (1 - forgetting) * concentration + forgetting * prior
    return remembered + (1 - implicit_weight) * explicit + implicit_weight * implicit


class BetaBelief(BetaPosterior):
    """Every task's success probability is Beta(α, β): explicit counts, implicit evidence and forgetting.

    The posterior of BOTS (arXiv:2510.26374). Special cases: ρ = 0 uses direct evidence only, ρ = λ = 1
    predictions only. A task without a prediction receives no implicit evidence: its posterior returns to the prior
    by λ. Rewards other than 0 and 1 are counted as coin flips (`RewardShape`), which the published code does not do.

    A step costs O(B), whatever N is. With S_k what task k had received if it had never been tried (`PseudoCounts`),

        α_k = α0 + S_k + (1−λ)^(steps since its last visit) D_k,   D_k ← (1−λ)(α_k − α0) + s_k − S_k at a visit,

    which is `generalized_update` of all tasks, step by step.

    Args:
        forgetting: λ, the share of the posterior that returns to the prior at each step.
        implicit_weight: ρ, the weight of a predicted pass rate against a counted one.
        prior: (α0, β0).
        implicit: predicts the pass rates of tasks that were not tried; none uses direct evidence only.
    """

    def __init__(
        self,
        forgetting: float = 0.1,
        implicit_weight: float = 0.1,
        prior: tuple[float, float] = (1.0, 1.0),
        implicit: ReferenceInterpolation | None = None,
    ) -> None:
        for name, value in (("forgetting", forgetting), ("implicit_weight", implicit_weight)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}; expected a number in [0, 1].")
        super().__init__(prior)
        self.forgetting = forgetting
        self.implicit_weight = implicit_weight
        self.implicit = implicit

    def setup(self, features: TaskFeatures) -> None:
        """Every task starts from the prior; reads the references."""
        super().setup(features)
        self.step = 0
        self.last = np.zeros(features.num_tasks, dtype=np.int32)
        self._powers: FloatArray = np.empty(0)  # (1−λ)^n, looked up; and in single precision
        self._coarse_powers: Float32Array = np.empty(0, dtype=np.float32)
        self._largest = 2.0**16  # no |D_k| is larger; hardly any run comes near
        self._pseudo = PseudoCounts()
        if self.implicit is not None:
            self.implicit.setup(features)
        self._profile(features)

    def _profile(self, features: TaskFeatures) -> None:
        """Without references all tasks are alike."""
        self._profiles = profiles_of(features.num_tasks, []) if self.implicit is None else self.implicit.profiles
        self._receive()

    def concentrations(self, where: Where = ALL) -> tuple[FloatArray, FloatArray]:
        """(α, β) of all tasks, each (N,), or of some."""
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
        """One generalized posterior update of all N tasks.

        The G of the pseudo-counts is the mean count of the step's tasks, rows of the same task added up. Evidence
        without any rollouts is no step: nothing changes, nothing is forgotten. Evidence of an earlier policy counts
        (1−λ)^age, what would be left of it had it come in time; where the policy stands is read off it in full.
        """
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        at = evidence.indices
        before = self._beyond_prior(at)
        evidence = self._in_coin_flips(evidence)
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
        """Bounds |D_k|."""
        for own in (self.successes[where], self.failures[where]):
            self._largest = max(self._largest, float(own.max(initial=0)), -float(own.min(initial=0)))

    # --- what tasks have received that were never tried ----------------------------------------------------------

    def _receive(self) -> None:
        """Works it out for every profile of references: (P,) successes and failures, and the cells of untried tasks."""
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
        """Implicit successes and failures of all tasks, each (N,), or of some."""
        if not self._profiles.exact:
            assert self.implicit is not None
            return self._received_by(*self.implicit.references(where))
        profile = self._profiles.labels[where]
        return self._of_profile[0][profile], self._of_profile[1][profile]

    def cells(self, where: slice) -> npt.NDArray[np.int32]:
        """The cell of each task: that of its profile, or its own where it has been tried and that is not forgotten."""
        cells = self._cell_of_profile.take(self._profiles.labels[where])
        tried = np.flatnonzero(self.last[where] > max(0, self.step - self._shown()))
        if len(tried):
            cells[tried] = self._cells_of_tried(where if len(tried) == len(cells) else where.start + tried)
        return cells

    def _shown(self) -> int:
        """Steps for which a visit may show in a sum of single precision; later it is below half of the last bit."""
        if not 0 < self.forgetting < 1:
            return self.step
        return math.ceil(math.log(2.0**-26 * self._least / self._largest) / math.log1p(-self.forgetting))

    def _cells_of_tried(self, where: Where) -> npt.NDArray[np.int32]:
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
        """The new tasks are predicted from their references, or else start at their group's mean pass rate."""
        old = len(self.successes)
        super().add_tasks(features)
        self.last = np.concatenate([self.last, np.full(features.num_tasks - old, self.step, dtype=np.int32)])
        if self.implicit is not None:
            self.implicit.read(features)
            predicted = old + np.flatnonzero(np.isfinite(self.implicit.predict(slice(old, None))))
            self.successes[predicted] = self.failures[predicted] = 0.0
        self._profile(features)

    def metrics(self) -> dict[str, float]:
        """Adds where the policy stands between the references."""
        metrics = super().metrics()
        if self.implicit is not None and self.implicit.ability is not None:
            metrics["belief/relative_ability"] = self.implicit.ability
        return metrics

    def state_dict(self) -> State:
        """Evidence, visits and implicit evidence."""
        state = super().state_dict() | {"last": self.last.copy(), "step": self.step}
        if self.implicit is not None:
            state["implicit"] = self.implicit.state_dict() | {"pseudo_counts": self._pseudo.state_dict()}
        return state

    def load_state_dict(self, state: State) -> None:
        """Takes over such a state.

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
