"""Allocations, which divide the rollouts of a step among its tasks. Needs numpy only."""

from bots_lightning.allocation.allocation import Allocation, TriedTasks
from bots_lightning.allocation.fixed import FixedAllocation
from bots_lightning.allocation.knapsack import KnapsackAllocation
from bots_lightning.allocation.pilot_commit import PilotCommitAllocation
from bots_lightning.allocation.sequential import SequentialAllocation
from bots_lightning.allocation.variance import VarianceAllocation

__all__ = [
    "Allocation",
    "FixedAllocation",
    "KnapsackAllocation",
    "PilotCommitAllocation",
    "SequentialAllocation",
    "TriedTasks",
    "VarianceAllocation",
]
