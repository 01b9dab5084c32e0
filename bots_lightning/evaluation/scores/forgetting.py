"""Forgetting: how much less often a policy solves the tasks that it once solved."""

# Shapes: N tasks, two halves of the rollouts that each had in an evaluation.

from __future__ import annotations

from typing import Any, Self, final

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]


def halves(evidence: Floats) -> Floats:
    """(N, 2) mean evidence of every other rollout, from the first and from the second on; NaN where there is none.

    Args:
        evidence: (N, n) in [0, 1], how far each completion solves its task, NaN where that is not known.
    """
    rates = np.full((len(evidence), 2), np.nan)
    for half in range(2):
        known = np.isfinite(evidence[:, half::2])
        sums = np.where(known, evidence[:, half::2], 0.0).sum(axis=1)
        np.divide(sums, known.sum(axis=1), out=rates[:, half], where=known.any(axis=1))
    return rates


@final
class Forgetting:
    """Compares how often tasks are solved now with how often they were in the evaluations that saw them solved.

        forgetting = mean over all once solved (k, h) of [ mean over e with r_keh > 1/2 of r_keh' ] − r_kh'(now),

    r_keh the pass rate of task k at evaluation e in one half h of its rollouts, h' the other half. In words: a task was
    once solved if more than half of the rollouts in one half were right at an earlier evaluation; the other half tells
    how often it was solved then, and the same other half how often it is now.

    Whoever looks for tasks that were solved finds lucky ones too, which fall back by chance: an unchanged policy would
    "forget" a good part of what a majority of few rollouts saw, and more with every evaluation. So does the largest of
    all earlier accuracies less the present one (Chaudhry et al., arXiv:1801.10112). Here, rollouts that choose are not
    compared: the expectation is the mean loss of true pass rates, which is 0 for an unchanged policy however few the
    rollouts. Where each task is solved always or never, it is the share of once solved tasks that are not solved now.

    Below 0, they are solved more often than then. What some tasks gain offsets what others lose, so read it by group.
    Equal seeds at all evaluations lessen its noise.

    Training visits do not serve: which tasks are visited again depends on what all their rollouts showed, by another
    rule for each selector. To follow training tasks, evaluate a sample of them as a pool of its own.

    Args:
        pool: stands for the N tasks.
        size: N.

    Attributes:
        solved: (N, 2) the evaluations at which each half solved its task.
        sums: (N, 2) the other half's pass rates there, added up.
    """

    def __init__(self, pool: str, size: int) -> None:
        self.pool = pool
        self.solved = np.zeros((size, 2), dtype=np.int32)
        self.sums = np.zeros((size, 2))

    def losses(self, now: Floats) -> Floats:
        """(N, 2) how much less often the other half solves its task now; NaN for what was not solved, or is not known.

        Args:
            now: (N, 2) of `halves`.
        """
        with np.errstate(invalid="ignore"):
            return self.sums / self.solved - now[:, ::-1]  # 0 / 0 where a task was not solved

    def add(self, now: Floats) -> None:
        """Adds an evaluation to the earlier ones.

        Args:
            now: (N, 2) of `halves`.
        """
        solved = (now > 0.5) & np.isfinite(now[:, ::-1])
        self.solved += solved
        self.sums += np.where(solved, now[:, ::-1], 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What earlier evaluations have shown, as tensors and a string."""
        return {"pool": self.pool, "solved": torch.tensor(self.solved), "sums": torch.tensor(self.sums)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Self:
        """That of a checkpoint.

        Args:
            state: of `state_dict`.
        """
        restored = cls(state["pool"], len(state["solved"]))
        restored.solved, restored.sums = (state[name].cpu().numpy().copy() for name in ("solved", "sums"))
        return restored


def mean_loss(losses: Floats) -> float | None:
    """The mean of those that are known; None if there is none.

    Args:
        losses: of `Forgetting.losses`, of all tasks or of a group.
    """
    known = losses[np.isfinite(losses)]
    return float(known.mean()) if len(known) else None
