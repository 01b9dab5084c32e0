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

    def slots(self, groups: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.unsignedinteger] | None]:
        """What a batch is made of.

        Args:
            groups: the K groups of the pool.

        Returns:
            the share of each slot, (S,); and the slot that each group's tasks are for, (K,), None if there is one.

        Raises:
            ValueError: a quota names a group that the pool lacks, or all groups have quotas that do not sum to 1.
        """
        if not self.group_quotas:
            return np.ones(1), None
        unknown = sorted(set(self.group_quotas) - set(groups))
        if unknown:
            raise ValueError(
                f"group_quotas names {unknown}; the pool has the groups {sorted(groups)}. Correct the names, or give "
                "the tasks a `group`."
            )
        places = {name: place for place, name in enumerate(self.group_quotas)}
        slots = np.array([places.get(group, len(places)) for group in groups])  # the last is of all other groups
        slots = slots.astype(np.min_scalar_type(len(places)))  # sorted in linear time
        shares, rest = [*self.group_quotas.values()], 1 - sum(self.group_quotas.values())
        if len(places) < len(groups):
            return np.array([*shares, rest]), slots
        if rest > 1e-9:
            raise ValueError(f"group_quotas={dict(self.group_quotas)} names all groups; expected shares that sum to 1.")
        return np.array(shares), slots


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
