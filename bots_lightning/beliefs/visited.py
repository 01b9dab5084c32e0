"""The belief of MoPPS: one Beta posterior per task that forgets only when the task is visited."""

# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task.

from __future__ import annotations

from bots_lightning.beliefs.beta_posterior import BetaPosterior
from bots_lightning.beliefs.evidence import Evidence
from bots_lightning.options import check_numbers


class VisitedBetaBelief(BetaPosterior):
    """A Beta(α, β) posterior for every task, updated by the task's own rollouts alone.

        α_k ← d α_k + (1−d) α0 + s_k,   β_k ← d β_k + (1−d) β0 + f_k   for each task of the step

    Other tasks do not change, and the age of evidence is ignored. This is the posterior of MoPPS (arXiv:2507.04632);
    with Thompson sampling towards 0.5 it gives that paper's selection. The paper selects from a random subset of the
    pool at each step; here every task is a candidate.

    Args:
        decay: d, the share of the posterior that is kept at a visit; the rest returns to the prior.
        prior: (α0, β0).

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(self, decay: float = 0.5, prior: tuple[float, float] = (1.0, 1.0)) -> None:
        check_numbers(0, high=1, decay=decay)
        super().__init__(prior)
        self.decay = decay

    def observe(self, evidence: Evidence) -> None:
        """Updates the tasks of the step; several rows of one task count as one visit."""
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        evidence = self._as_bernoulli_trials(evidence)
        visited = evidence.indices
        kept = 1 - (1 - self.decay)  # rounded as the 1 − λ of BetaBelief
        self.successes[visited] = kept * self.successes[visited] + evidence.successes
        self.failures[visited] = kept * self.failures[visited] + (evidence.counts - evidence.successes)
