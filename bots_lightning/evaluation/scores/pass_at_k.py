"""Held-out quality: avg@k and pass@k, overall and by group."""

# Shapes: B tasks, n completions per task.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def pass_at_k(successes: Tensor, counts: Tensor, k: int) -> Tensor:
    """An unbiased estimate of the probability that at least one of k completions solves the task.

        pass@k = 1 − C(n − c, k) / C(n, k)

    The estimator of Chen et al. (arXiv:2107.03374), as a product, which does not overflow.

    Args:
        successes: (B,) c, completions that solved the task.
        counts: (B,) n, completions drawn, each at least k.
        k: completions of which one has to solve the task.

    Returns:
        (B,) float64.

    Raises:
        ValueError: a task has fewer than k completions.
    """
    if bool((counts < k).any()):
        raise ValueError(f"pass@{k} needs at least {k} completions of each task; one has {int(counts.min())}.")
    failures = (counts - successes).double()
    steps = torch.arange(k, dtype=torch.float64, device=counts.device)
    ratio = (failures.unsqueeze(1) - steps).clamp(min=0) / (counts.double().unsqueeze(1) - steps)
    return 1 - ratio.prod(dim=1)


class HeldOutScore(Metric):
    """avg@n and pass@k over a held-out set, gathered over batches and ranks.

    `compute` gives `avg@n`, `pass@k`, and for each group `GROUP/avg@n`.

    Args:
        n: completions per task.
        k: of pass@k, at most n.
        groups: labels; tasks come with positions in this list, −1 for no group.

    Attributes:
        positions: of the groups, by label.

    Raises:
        ValueError: k is out of range.
    """

    full_state_update = False

    def __init__(self, n: int, k: int, groups: list[str]) -> None:
        super().__init__()
        if not 1 <= k <= n:
            raise ValueError(f"pass@{k} with {n} completions per task; expected 1 <= k <= n.")
        self.n, self.k, self.groups = n, k, groups
        self.positions = {label: i for i, label in enumerate(groups)}
        for state in ("quality", "successes", "counts", "group"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, quality: Tensor, successes: Tensor, counts: Tensor, group: Tensor) -> None:
        """Adds tasks.

        Args:
            quality: (B,) mean reward, mapped to [0, 1].
            successes: (B,) completions with the highest reward.
            counts: (B,) completions with a reward.
            group: (B,) int, positions in `groups`.
        """
        for name, value in (("quality", quality), ("successes", successes), ("counts", counts), ("group", group)):
            getattr(self, name).append(value)

    def compute(self) -> dict[str, Tensor]:
        """The scores by name; NaN where there is nothing to average."""
        states: Any = self
        quality, group = dim_zero_cat(states.quality).cpu(), dim_zero_cat(states.group).cpu()
        successes, counts = dim_zero_cat(states.successes).cpu(), dim_zero_cat(states.counts).cpu()
        enough = counts >= self.k
        scores = {
            f"avg@{self.n}": quality.nanmean(),
            f"pass@{self.k}": pass_at_k(successes[enough], counts[enough], self.k).mean(),
        }
        for i, label in enumerate(self.groups):
            scores[f"{label}/avg@{self.n}"] = quality[group == i].nanmean()
        return scores
