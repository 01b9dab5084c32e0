"""Rules that hold for every batch, whatever the belief: cooldown, group quotas, tasks that come back when due."""

# Shapes: B tasks to select, K groups, S slots of a batch.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bots_lightning.options import check_numbers
from bots_lightning.selection.review import ReviewQueue


@dataclass(frozen=True)
class SelectionRules:
    """Rules for the batches of a Bayesian selector.

    Attributes:
        cooldown: number of steps for which a selected task is not selected again; if too few tasks are left, those
            selected longest ago become eligible first.
        group_quotas: share of each batch for named groups; the other groups share the rest. Fractions of a task are
            carried over, so that the shares hold over the run.
        review_share: the most of each batch for mastered tasks that are due (`ReviewQueue`), to notice if the policy
            forgets them.
        retry_share: the most of each batch for hopeless tasks that are due, to notice if the policy can solve them now.
        mastered: predicted pass rate from which a task counts as mastered.
        hopeless: predicted pass rate up to which a task counts as hopeless.

    Raises:
        ValueError: a number is out of range, or quotas or shares sum to more than 1.
    """

    cooldown: int = 0
    group_quotas: Mapping[str, float] = field(default_factory=dict)
    review_share: float = 0.0
    mastered: float = 0.9
    retry_share: float = 0.0
    hopeless: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(0, cooldown=self.cooldown)
        check_numbers(0, high=1, review_share=self.review_share, mastered=self.mastered)
        check_numbers(0, high=1, retry_share=self.retry_share, hopeless=self.hopeless)
        if self.review_share + self.retry_share > 1:
            raise ValueError(
                f"review_share={self.review_share} and retry_share={self.retry_share}; expected shares that sum to at "
                "most 1."
            )
        shares = self.group_quotas.values()
        if any(not 0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError(
                f"group_quotas={dict(self.group_quotas)}; expected shares in [0, 1] that sum to at most 1."
            )

    def queues(self) -> dict[str, ReviewQueue]:
        """An empty queue for each kind of tasks that has a share of the batch."""
        queues = {
            "mastered": ReviewQueue(True, self.mastered, self.review_share),
            "hopeless": ReviewQueue(False, self.hopeless, self.retry_share),
        }
        return {name: queue for name, queue in queues.items() if queue.share > 0}

    def slots(self, groups: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.unsignedinteger] | None]:
        """The slots into which a batch is divided: one for each quota and one for the other groups.

        Args:
            groups: the K groups of the pool.

        Returns:
            The share of each slot, (S,), and the slot of each group, (K,), or None if there is one slot.

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
        slots = np.array([places.get(group, len(places)) for group in groups])  # the last slot is for other groups
        slots = slots.astype(np.min_scalar_type(len(places)))  # small integers are sorted in linear time
        shares, rest = [*self.group_quotas.values()], 1 - sum(self.group_quotas.values())
        if len(places) < len(groups):
            return np.array([*shares, rest]), slots
        if rest > 1e-9:
            raise ValueError(f"group_quotas={dict(self.group_quotas)} names all groups; expected shares that sum to 1.")
        return np.array(shares), slots


def whole_tasks(due: npt.NDArray[np.float64], batch_size: int) -> npt.NDArray[np.int64]:
    """Rounds fractional numbers of tasks to integers >= 0 that sum to B, by largest remainders.

    Args:
        due: (S,) tasks due to each slot, summing to B.
        batch_size: B.

    Returns:
        (S,) number of tasks of each slot.
    """
    sizes = np.maximum(np.floor(due + 1e-9), 0).astype(np.int64)  # `due` is negative if a slot was rounded up before
    while sizes.sum() < batch_size:
        sizes[np.argmax(due - sizes)] += 1
    while sizes.sum() > batch_size:
        sizes[np.argmin(np.where(sizes > 0, due - sizes, np.inf))] -= 1
    return sizes
