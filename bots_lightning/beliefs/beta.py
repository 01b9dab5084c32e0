"""The belief of BOTS: one Beta posterior per task."""

# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.belief import Belief, FloatArray, State, TaskFeatures
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.beliefs.implicit import ReferenceInterpolation


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


class BetaPosterior(Belief):
    """What beliefs have in common that hold α and β of every task; how evidence moves them is the subclass's.

    Args:
        prior: (α0, β0).
    """

    def __init__(self, prior: tuple[float, float]) -> None:
        if len(prior) != 2 or not all(0 < concentration < np.inf for concentration in prior):
            raise ValueError(f"prior={tuple(prior)}; expected two finite positive numbers (alpha0, beta0).")
        self.prior = float(prior[0]), float(prior[1])

    def setup(self, features: TaskFeatures) -> None:
        """Every task starts from the prior."""
        self.alpha = np.full(features.num_tasks, self.prior[0])
        self.beta = np.full(features.num_tasks, self.prior[1])

    def sample(self, rng: np.random.Generator) -> FloatArray:
        """p̂ ~ Beta(α, β) for every task, shape (N,)."""
        return rng.beta(self.alpha, self.beta)

    def mean(self) -> FloatArray:
        """α / (α + β), shape (N,)."""
        return self.alpha / (self.alpha + self.beta)

    def concentrations(self) -> tuple[FloatArray, FloatArray]:
        """(α, β), each (N,)."""
        return self.alpha.copy(), self.beta.copy()

    def metrics(self) -> dict[str, float]:
        """Mean predicted pass rate and evidence per task."""
        evidence = (self.alpha + self.beta).mean() - sum(self.prior)
        return {"belief/mean_pass_rate": float(self.mean().mean()), "belief/evidence": float(evidence)}

    def state_dict(self) -> State:
        """α and β."""
        return {"alpha": self.alpha.copy(), "beta": self.beta.copy()}

    def load_state_dict(self, state: State) -> None:
        """Takes over α and β."""
        self.alpha = np.array(state["alpha"], dtype=np.float64)
        self.beta = np.array(state["beta"], dtype=np.float64)


class BetaBelief(BetaPosterior):
    """Every task's success probability is Beta(α, β): explicit counts, implicit evidence and forgetting.

    The posterior of BOTS (arXiv:2510.26374). Special cases: ρ = 0 uses direct evidence only, ρ = λ = 1
    predictions only. A task without a prediction receives no implicit evidence: its posterior returns to the prior
    by λ.

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
        if self.implicit is not None:
            self.implicit.setup(features)

    def observe(self, evidence: Evidence) -> None:
        """One generalized posterior update of all N tasks.

        The G of the pseudo-counts is the mean count of the step's tasks, rows of the same task added up. Evidence
        without any rollouts is no step: nothing changes, nothing is forgotten.
        """
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        successes, failures = np.zeros_like(self.alpha), np.zeros_like(self.beta)
        successes[evidence.indices] = evidence.successes
        failures[evidence.indices] = evidence.counts - evidence.successes
        pseudo_successes, pseudo_failures = self._pseudo_counts(evidence, successes, failures)
        rates = {"forgetting": self.forgetting, "implicit_weight": self.implicit_weight}
        self.alpha = generalized_update(self.alpha, successes, pseudo_successes, prior=self.prior[0], **rates)
        self.beta = generalized_update(self.beta, failures, pseudo_failures, prior=self.prior[1], **rates)

    def _pseudo_counts(
        self, evidence: Evidence, successes: FloatArray, failures: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """(s̃, f̃), each (N,): the counts where a task was tried, G·p̃ and G·(1−p̃) where it was not."""
        if self.implicit is None:
            return successes, failures
        self.implicit.observe(evidence)
        predicted = self.implicit.predict()
        known, rollouts = np.isfinite(predicted), evidence.counts.mean()
        pseudo_successes = np.where(known, rollouts * predicted, 0.0)
        pseudo_failures = np.where(known, rollouts * (1 - predicted), 0.0)
        pseudo_successes[evidence.indices] = successes[evidence.indices]
        pseudo_failures[evidence.indices] = failures[evidence.indices]
        return pseudo_successes, pseudo_failures

    def metrics(self) -> dict[str, float]:
        """Adds where the policy stands between the references."""
        metrics = super().metrics()
        if self.implicit is not None and self.implicit.ability is not None:
            metrics["belief/relative_ability"] = self.implicit.ability
        return metrics

    def state_dict(self) -> State:
        """α, β and the implicit predictor's state."""
        state = super().state_dict()
        if self.implicit is not None:
            state["implicit"] = self.implicit.state_dict()
        return state

    def load_state_dict(self, state: State) -> None:
        """Takes over α, β and the implicit predictor's state.

        Raises:
            ValueError: only one of state and belief has an implicit predictor.
        """
        if ("implicit" in state) != (self.implicit is not None):
            raise ValueError(
                f"the saved belief has {'an' if 'implicit' in state else 'no'} implicit predictor, this one has "
                f"{'none' if self.implicit is None else 'one'}. Resume with the `implicit` of the checkpoint's config."
            )
        super().load_state_dict(state)
        if self.implicit is not None:
            self.implicit.load_state_dict(state["implicit"])
