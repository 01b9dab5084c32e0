"""What was drawn: how many rollouts each task gets, and which of the tasks are this rank's."""

# Shapes: B tasks over all ranks, W ranks.

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bots_lightning.allocation import Allocation
from bots_lightning.allocation.allocation import LEAST, Floats
from bots_lightning.data import ranks
from bots_lightning.data.workload import Workload, equal_shares
from bots_lightning.selection import TaskSelector


class DrawnTask(NamedTuple):
    """One task to be rolled out.

    Attributes:
        place: in what was drawn for all ranks, or in the pool that is evaluated.
        index: the task's position in the pool.
        count: how many rollouts it gets.
    """

    place: int
    index: int  # type: ignore[assignment] # hides a method of tuples, like the next
    count: int  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Draw:
    """What the selector chose for one batch.

    Attributes:
        indices: B positions in the pool.
        counts: B numbers of rollouts.
        expected: B numbers of tokens that these are expected to take, by which ranks share them out, so that the shares
            are the same whenever they are asked for; empty if that is not known, or there is one rank.
    """

    indices: list[int]
    counts: list[int]
    expected: list[float] = field(default_factory=list)


class Draws:
    """All draws whose evidence is awaited, in the order in which they are learned from.

    Attributes:
        served: whether the first of them is being learned from, so that its evidence comes next.
    """

    def __init__(self) -> None:
        self.served = False
        self._queue: deque[Draw] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def first(self) -> Draw:
        """The first draw; an empty one if there is none."""
        return self._queue[0] if self._queue else Draw([], [])

    def put(self, draw: Draw, ahead: bool) -> None:
        """Adds a draw: behind all others if it is drawn ahead, else before them, to be learned from now."""
        if ahead:
            self._queue.append(draw)
        else:
            self._queue.appendleft(draw)
            self.served = True

    def serve(self) -> Draw:
        """The first draw, to be learned from now."""
        self.served = True
        return self._queue[0]

    def done(self) -> None:
        """Forgets the first draw: its evidence is there."""
        self.served = False
        if self._queue:
            self._queue.popleft()

    def of(self, indices: list[int]) -> Draw:
        """The draw that has these very indices; of equal draws, each has its own list."""
        return next(draw for draw in self._queue if draw.indices is indices)

    def state_dict(self) -> dict[str, Any]:
        """All draws one behind the other, and how long each is."""
        return {
            "drawn": [index for draw in self._queue for index in draw.indices],
            "drawn_counts": [count for draw in self._queue for count in draw.counts],
            "draw_sizes": [len(draw.indices) for draw in self._queue],
            "draw_expected": [draw.expected for draw in self._queue],
        }

    def load_state_dict(self, state: dict[str, Any], count: int | None) -> None:
        """Takes over the draws of a checkpoint, none of which is being learned from.

        Args:
            state: of `state_dict`; earlier versions had one draw.
            count: how many rollouts each task gets; None: as many as it was to get.
        """
        drawn = list(state["drawn"])
        counts = [count] * len(drawn) if count is not None else list(state["drawn_counts"])
        sizes = state.get("draw_sizes", [len(drawn)] if drawn else [])
        ends = np.cumsum([0, *sizes]).tolist()
        parts = [slice(*ends[at : at + 2]) for at in range(len(sizes))]
        expected = [list(tokens) if count is None else [] for tokens in state.get("draw_expected", [[] for _ in sizes])]
        self._queue = deque(Draw(drawn[part], counts[part], expected[at]) for at, part in enumerate(parts))
        self.served = False


def believed(selector: TaskSelector, indices: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """What a selector believes of tasks: (α, β), each (B,), of its forecast; 1 and 1 if it has no belief.

    Args:
        selector: that drew the tasks.
        indices: (B,) positions in the pool.
    """
    return selector.forecast(indices) or unknown(len(indices))


def unknown(tasks: int) -> tuple[Floats, Floats]:
    """(α, β) of tasks of which nothing is known: 1 and 1, each (tasks,)."""
    return np.ones(tasks), np.ones(tasks)


def allocated(
    allocation: Allocation, selector: TaskSelector, indices: npt.NDArray[np.int64], num_generations: int
) -> list[int]:
    """How many rollouts each task gets.

    Args:
        allocation: of the run.
        selector: that drew the tasks.
        indices: (B,) positions in the pool.
        num_generations: rollouts of each task on average.

    Returns:
        B counts.

    Raises:
        ValueError: there are not B counts, one is not a whole number or less than 2, or they exceed what there is.
    """
    beliefs = believed(selector, indices) if allocation.uses_belief else unknown(len(indices))
    counts = allocation.allocate(*beliefs, num_generations)
    least, most = min(LEAST, num_generations), len(indices) * num_generations
    whole = counts.shape == indices.shape and counts.dtype.kind in "iu"
    if not whole or (counts < least).any() or counts.sum() > most:
        raise ValueError(
            f"{type(allocation).__name__}.allocate gave {counts.tolist()} for {len(indices)} tasks; expected a whole "
            f"number of rollouts for each, at least {least}, and no more than {most} together."
        )
    return counts.tolist()


def expected_tokens(drawn: list[int], counts: list[int], workload: Workload) -> list[float]:
    """What the rollouts of a draw are expected to take, up to a factor.

    Args:
        drawn: B positions in the pool.
        counts: B numbers of rollouts.
        workload: what one number of rollouts of each task is expected to take; not asked if there is one rank.

    Returns:
        B numbers; none if there is one rank.
    """
    if ranks.world_size() == 1:
        return []
    return (workload.expected(drawn) * (np.array(counts) / max(counts))).tolist()


def own_share(draw: Draw, workload: Workload) -> list[DrawnTask]:
    """This rank's share of what was drawn: B / W tasks, which are expected to take about as many tokens as any other's.

    Args:
        draw: of B tasks, a multiple of W.
        workload: where the draw does not say what is expected.

    Returns:
        the tasks by ascending place.
    """
    drawn, counts = draw.indices, draw.counts
    tasks = [DrawnTask(place, *task) for place, task in enumerate(zip(drawn, counts, strict=True))]
    if ranks.world_size() == 1:
        return tasks
    expected = np.array(draw.expected or expected_tokens(drawn, counts, workload))
    return [tasks[place] for place in equal_shares(expected, ranks.world_size())[ranks.rank()]]
