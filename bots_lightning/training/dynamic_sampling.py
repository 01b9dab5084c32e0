"""Dynamic sampling: groups without a gradient are replaced by further ones before the update."""

# Shapes: B tasks per iteration on this rank.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bots_lightning.algorithms import RolloutGroups
from bots_lightning.evaluation import mixed_groups
from bots_lightning.options import check_numbers


@dataclass(frozen=True)
class DynamicSampling:
    """Fills the batch with mixed groups, those whose rewards differ (DAPO, arXiv:2503.14476), within a bound.

    Groups of equal rewards have no advantage. They are dropped and the selector is asked for further tasks, B at a
    time, until B groups are mixed. Surplus ones are kept for the next iteration, which starts with them.

    The rewards are those that the policy learns from, also where the module names its `evidence`.

    Departures from DAPO: the surplus is not thrown away, and when the bound is reached the batch is filled up with
    groups of equal rewards instead of ending the run, so that a batch is B groups always. Compare runs per rollout:
    every extra one is counted.

    Attributes:
        max_batches: the most batches of B tasks that one iteration rolls out (verl's
            `filter_groups.max_num_gen_batches`); 1 is plain sampling.
        max_age: the most iterations that a surplus group waits; 0 throws the surplus away. In one process none waits
            longer than 1. Several ranks sample until each has enough, and those that were lucky may pile up more.
    """

    max_batches: int = 4
    max_age: int = 1

    def __post_init__(self) -> None:
        check_numbers(1, max_batches=self.max_batches)
        check_numbers(0, max_age=self.max_age)

    def check(self, num_generations: int) -> None:
        """Refuses groups that cannot be mixed.

        Args:
            num_generations: rollouts per task.

        Raises:
            ValueError: says what to use instead.
        """
        if num_generations < 2:
            raise ValueError(
                f"dynamic_sampling looks for groups whose rewards differ; with num_generations={num_generations} "
                "there are none. Raise num_generations or leave dynamic_sampling out."
            )

    def enough(self, leftovers: RolloutGroups | None, sampled: Sequence[RolloutGroups], size: int) -> bool:
        """Whether leftovers and what was sampled hold B mixed groups.

        Args:
            leftovers: mixed groups of earlier iterations.
            sampled: the groups of each batch of this iteration.
            size: B.
        """
        mixed = sum(int(_mixed(groups).sum()) for groups in sampled)
        return mixed + (len(leftovers) if leftovers else 0) >= size

    def compose(
        self,
        leftovers: RolloutGroups | None,
        sampled: Sequence[RolloutGroups],
        size: int,
        iteration: int,
        pad_token_id: int,
    ) -> tuple[RolloutGroups, RolloutGroups | None, dict[str, float]]:
        """Divides what there is into the batch to learn from and what is kept for the next iteration.

        Args:
            leftovers: mixed groups of earlier iterations, oldest first.
            sampled: the groups of each batch of this iteration, `size` or more together.
            size: B, groups of the batch.
            iteration: the present one.
            pad_token_id: see `concatenate`.

        Returns:
            the batch: the B oldest mixed groups, filled up with groups of equal rewards, in the order they were
            sampled; the leftovers of the next iteration, if any; and metrics: batches rolled out, groups of equal
            rewards that were dropped or filled up, mixed groups in the batch that an earlier policy sampled, and
            mixed groups thrown away for their age.
        """
        groups = RolloutGroups.concatenate([leftovers, *sampled] if leftovers else sampled, pad_token_id)
        mixed = _mixed(groups)
        kept, equal = mixed.nonzero().flatten(), (~mixed).nonzero().flatten()
        filling = equal[: max(0, size - len(kept))]
        chosen = kept.new_tensor(sorted(kept[:size].tolist() + filling.tolist()))
        surplus = kept[size:]
        young = surplus[iteration + 1 - groups.iterations[surplus] <= self.max_age]
        batch = groups.take(chosen)
        metrics = {
            "batches": len(sampled),
            "dropped_groups": len(equal) - len(filling),
            "filled_groups": len(filling),
            "leftover_groups": int((batch.iterations < iteration).sum()),
            "expired_groups": len(surplus) - len(young),
        }
        logged = {f"dynamic_sampling/{name}": float(value) for name, value in metrics.items()}
        return batch, groups.take(young) if len(young) else None, logged


def _mixed(groups: RolloutGroups) -> Tensor:
    """(K,) bool, whether the rewards of a group differ."""
    return mixed_groups(groups.rewards, groups.group_of_row)
