"""What a batch must hold whatever the belief says: cooldown, group quotas, a review share."""

# Shapes: B tasks to select, K groups.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class SelectionRules:
    """Rules for the batches of a Bayesian selector.

    Attributes:
        cooldown: steps for which a selected task rests; if too few tasks are left, those that rested longest return.
        group_quotas: share of each batch for named groups; the other groups share the rest. Fractions of a task are
            carried over, so that the shares hold over the run.
        review_share: share of each batch for tasks that are mastered, so that they are not unlearned unnoticed.
        mastered: believed pass rate from which a task counts as mastered.
    """

    cooldown: int = 0
    group_quotas: Mapping[str, float] = field(default_factory=dict)
    review_share: float = 0.0
    mastered: float = 0.9

    def __post_init__(self) -> None:
        if self.cooldown < 0:
            raise ValueError(f"cooldown={self.cooldown}; expected a number of steps >= 0.")
        for name in ("review_share", "mastered"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected a number in [0, 1].")
        shares = self.group_quotas.values()
        if any(not 0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError(
                f"group_quotas={dict(self.group_quotas)}; expected shares in [0, 1] that sum to at most 1."
            )

    def slots(self, groups: Sequence[str]) -> list[tuple[float, npt.NDArray[np.bool_] | None]]:
        """What a batch is made of: shares of it, each with the groups (K,) it is chosen from (None: all of them).

        Raises:
            ValueError: a quota names a group that the pool lacks, or all groups have quotas that do not sum to 1.
        """
        if not self.group_quotas:
            return [(1.0, None)]
        unknown = sorted(set(self.group_quotas) - set(groups))
        if unknown:
            raise ValueError(
                f"group_quotas names {unknown}; the pool has the groups {sorted(groups)}. Correct the names, or give "
                "the tasks a `group`."
            )
        slots: list[tuple[float, npt.NDArray[np.bool_] | None]] = [
            (share, np.array([group == name for group in groups])) for name, share in self.group_quotas.items()
        ]
        others = np.array([group not in self.group_quotas for group in groups])
        rest = 1 - sum(self.group_quotas.values())
        if others.any():
            return [*slots, (rest, others)]
        if rest > 1e-9:
            raise ValueError(f"group_quotas={dict(self.group_quotas)} names all groups; expected shares that sum to 1.")
        return slots


def whole_tasks(due: npt.NDArray[np.float64], batch_size: int) -> npt.NDArray[np.int64]:
    """Whole numbers >= 0 near what is due, summing to B: rounded down, the largest remainders up.

    Args:
        due: (S,) tasks due to each slot, summing to B.
        batch_size: B.
    """
    sizes = np.maximum(np.floor(due + 1e-9), 0).astype(np.int64)  # a slot that was rounded up before may be in debt
    while sizes.sum() < batch_size:
        sizes[np.argmax(due - sizes)] += 1
    while sizes.sum() > batch_size:
        sizes[np.argmin(np.where(sizes > 0, due - sizes, np.inf))] -= 1
    return sizes
