"""Dynamic sampling: groups without a gradient are replaced by further ones before the update."""

# Shapes: B tasks per iteration on this rank, G rollouts per task.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bots_lightning.evaluation import mixed_groups
from bots_lightning.training.groups import Groups


@dataclass(frozen=True)
class DynamicSampling:
    """Fills the batch with groups whose rewards differ (DAPO, arXiv:2503.14476), within a bound.

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
        if self.max_batches < 1:
            raise ValueError(f"max_batches={self.max_batches}; expected at least 1, the batch that was selected.")
        if self.max_age < 0:
            raise ValueError(f"max_age={self.max_age}; expected 0 or more iterations.")

    def enough(self, leftovers: Groups | None, rounds: Sequence[Groups], size: int) -> bool:
        """Whether leftovers and rounds hold B mixed groups."""
        mixed = sum(int(mixed_groups(groups.rewards).sum()) for groups in rounds)
        return mixed + (len(leftovers) if leftovers else 0) >= size

    def compose(
        self, leftovers: Groups | None, rounds: Sequence[Groups], size: int, iteration: int, pad_token_id: int
    ) -> tuple[Groups, Groups | None, dict[str, float]]:
        """Divides what there is into the batch to learn from and what is kept for the next iteration.

        Args:
            leftovers: mixed groups of earlier iterations, oldest first.
            rounds: the groups of each round of this iteration, `size` or more together.
            size: B, groups of the batch.
            iteration: the present one.
            pad_token_id: see `concatenate`.

        Returns:
            the batch: the B oldest mixed groups, filled up with groups of equal rewards, in the order they were
            sampled; the leftovers of the next iteration, if any; and metrics: batches rolled out, groups of equal
            rewards that were dropped or filled up, mixed groups in the batch that an earlier policy sampled, and
            mixed groups thrown away for their age.
        """
        groups = Groups.concatenate([leftovers, *rounds] if leftovers else rounds, pad_token_id)
        mixed = mixed_groups(groups.rewards)
        kept, equal = mixed.nonzero().flatten(), (~mixed).nonzero().flatten()
        filling = equal[: max(0, size - len(kept))]
        chosen = kept.new_tensor(sorted(kept[:size].tolist() + filling.tolist()))
        surplus = kept[size:]
        young = surplus[iteration + 1 - groups.iterations[surplus] <= self.max_age]
        batch = groups.take(chosen)
        metrics = {
            "batches": len(rounds),
            "dropped_groups": len(equal) - len(filling),
            "filled_groups": len(filling),
            "leftover_groups": int((batch.iterations < iteration).sum()),
            "expired_groups": len(surplus) - len(young),
        }
        logged = {f"dynamic_sampling/{name}": float(value) for name, value in metrics.items()}
        return batch, groups.take(young) if len(young) else None, logged
