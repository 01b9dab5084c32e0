"""The belief of MoPPS: one Beta posterior per task, which forgets only when the task is tried."""

# Shapes: N tasks in the pool, B tasks in the step, G rollouts per task.

from __future__ import annotations

from bots_lightning.beliefs.beta_posterior import BetaPosterior
from bots_lightning.beliefs.evidence import Evidence


class VisitedBetaBelief(BetaPosterior):
    """Every task's success probability is Beta(α, β), moved by the task's own rollouts alone.

        α_k ← d α_k + (1−d) α0 + s_k,   β_k ← d β_k + (1−d) β0 + f_k   for a task that was tried

    All others stay as they are, and evidence does not age. The posterior of MoPPS (arXiv:2507.04632), which with
    Thompson sampling towards 0.5 gives its selection; the paper selects from a random subset of the pool at each step,
    here every task stands for selection.

    Args:
        decay: d, the share of the posterior that a visit keeps; the rest returns to the prior.
        prior: (α0, β0).
    """

    def __init__(self, decay: float = 0.5, prior: tuple[float, float] = (1.0, 1.0)) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}; expected a number in [0, 1].")
        super().__init__(prior)
        self.decay = decay

    def observe(self, evidence: Evidence) -> None:
        """Updates the tasks that were tried; rows of the same task are one visit."""
        evidence = evidence.merged()
        if len(evidence) == 0:
            return
        evidence = self._in_coin_flips(evidence)
        tried = evidence.indices
        kept = 1 - (1 - self.decay)  # rounded as the 1 − λ of BetaBelief
        self.successes[tried] = kept * self.successes[tried] + evidence.successes
        self.failures[tried] = kept * self.failures[tried] + (evidence.counts - evidence.successes)
