"""The belief of MoPPS: one Beta posterior per task, which forgets only when the task is tried."""

# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task.

from __future__ import annotations

import numpy as np

from bots_lightning.beliefs.belief import Belief, FloatArray, State, TaskFeatures
from bots_lightning.beliefs.beta import generalized_update
from bots_lightning.beliefs.evidence import Evidence


class VisitedBetaBelief(Belief):
    """Every task's success probability is Beta(α, β), moved by the task's own rollouts alone.

        α_k ← d α_k + (1−d) α0 + s_k,   β_k ← d β_k + (1−d) β0 + f_k   for a task that was tried

    All others stay as they are. The posterior of MoPPS (arXiv:2507.04632), which with Thompson sampling towards 0.5
    gives its selection; the paper selects from a random subset of the pool at each step, here every task stands for
    selection.

    Args:
        decay: d, the share of the posterior that a visit keeps; the rest returns to the prior.
        prior: (α0, β0).
    """

    def __init__(self, decay: float = 0.5, prior: tuple[float, float] = (1.0, 1.0)) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}; expected a number in [0, 1].")
        if len(prior) != 2 or not all(0 < concentration < np.inf for concentration in prior):
            raise ValueError(f"prior={tuple(prior)}; expected two finite positive numbers (alpha0, beta0).")
        self.decay = decay
        self.prior = float(prior[0]), float(prior[1])

    def setup(self, features: TaskFeatures) -> None:
        """Every task starts from the prior."""
        self.alpha = np.full(features.num_tasks, self.prior[0])
        self.beta = np.full(features.num_tasks, self.prior[1])

    def observe(self, evidence: Evidence) -> None:
        """Updates the tasks that were tried; rows of the same task are one visit."""
        evidence = evidence.merged()
        tried, successes, failures = evidence.indices, evidence.successes, evidence.counts - evidence.successes
        rates = {"forgetting": 1 - self.decay, "implicit_weight": 0.0}
        self.alpha[tried] = generalized_update(self.alpha[tried], successes, successes, prior=self.prior[0], **rates)
        self.beta[tried] = generalized_update(self.beta[tried], failures, failures, prior=self.prior[1], **rates)

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
