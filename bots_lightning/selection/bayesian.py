"""Base class of selectors that choose by a belief."""

# Shapes: N tasks in the pool, B tasks to select, K groups, S slots of a batch.

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Belief, Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.chunks import Eligible, Indices
from bots_lightning.selection.review import LOOKS
from bots_lightning.selection.rules import SelectionRules, whole_tasks
from bots_lightning.selection.selector import TaskSelector


class BayesianSelector(TaskSelector):
    """Selects tasks by a belief about their success probabilities, within rules for every batch.

    Subclasses implement `_choose`. A task whose pass rate is believed to be 0 is deferred, never dropped: beliefs
    forget, so that every task can be selected again.

    Args:
        belief: distribution of each task's success probability.
        rules: cooldown, group quotas and shares of tasks that are due; none by default.
    """

    def __init__(self, belief: Belief, rules: SelectionRules | None = None) -> None:
        self.belief = belief
        self.rules = rules or SelectionRules()

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts the belief from its prior.

        Args:
            features: of the pool's tasks.
            seed: of the generator from which choices are drawn.

        Raises:
            ValueError: the pool lacks a column that the belief needs, or a group that has a quota.
        """
        super().setup(features, seed)
        self.belief.setup(features)
        self._use_groups(features)
        self.steps = 0
        self._recent: list[Indices] = []  # the batches within the cooldown, oldest first
        self._queues = self.rules.queues()

    def _use_groups(self, features: TaskFeatures) -> None:
        self.group_codes = features.group_codes
        self._shares, self._slots = self.rules.slots(features.group_names)
        self._due = np.zeros(len(self._shares))
        self._members: list[npt.NDArray[Any]] | None = None

    def _members_of(self, eligible: Eligible) -> list[npt.NDArray[Any]]:
        """The tasks of each slot, in the order of the pool; cached if there are quotas, 4 bytes per task."""
        if eligible.slots is None:
            return [np.arange(self.num_tasks)]
        if self._members is None:
            places = eligible.places(np.arange(self.num_tasks), len(self._shares))
            self._members = [tasks.astype(np.uint32) for tasks in places]
        return self._members

    def select(self, batch_size: int) -> Indices:
        """(B,) positions of the selected tasks: reviews first, then those of each slot, best first.

        Raises:
            ValueError: the batch is empty or exceeds the pool.
            RuntimeError: the belief predicts values that are not finite.
        """
        self.check_batch_size(batch_size)
        batch = self._review(batch_size)
        self._due += (batch_size - len(batch)) * self._shares
        sizes = whole_tasks(self._due, batch_size - len(batch))
        self._due -= sizes
        batch = self._extended(batch, sizes, self._recent, self._slots)
        for rested in range(len(self._recent) + 1):  # a group, or the pool, may have too few eligible tasks
            missing = np.array([batch_size - len(batch)])
            batch = self._extended(batch, missing, self._recent[rested:], None)
        if len(batch) < batch_size:
            raise RuntimeError(
                f"{type(self).__name__} chose {len(batch)} of {batch_size} tasks, though {self.num_tasks - len(batch)} "
                f"are left: {type(self.belief).__name__} predicts values for them that are not finite. Check its "
                "`mean`, `sample` and `concentrations`."
            )
        self._recent = [*self._recent, batch][-self.rules.cooldown :] if self.rules.cooldown else []
        for queue in self._queues.values():
            queue.restart(batch, self.steps)
        self.steps += 1
        return batch

    def _extended(
        self, batch: Indices, sizes: Indices, resting: list[Indices], slots: npt.NDArray[Any] | None
    ) -> Indices:
        if not sizes.any():
            return batch
        eligible = Eligible(np.concatenate([batch, *resting]), self.group_codes, slots)
        return np.concatenate([batch, *self._choose(sizes, eligible)])

    @abstractmethod
    def _choose(self, sizes: Indices, eligible: Eligible) -> list[Indices]:
        """The best eligible tasks of each slot, best first.

        Args:
            sizes: (S,) number of tasks to choose for each slot.
            eligible: which tasks may be chosen, and for which slot.

        Returns:
            S arrays of positions; shorter than asked for only if a slot has too few eligible tasks.
        """

    def _review(self, batch_size: int) -> Indices:
        """Mastered tasks, then hopeless ones, that are due for their shares of the batch."""
        reviewed = np.empty(0, dtype=np.int64)
        if not self._queues:
            return reviewed
        some = np.unique(self.rng.integers(self.num_tasks, size=LOOKS))  # many may never have been visited
        believed = self._concentrations(some)
        for queue in self._queues.values():
            queue.notice(some, *believed, self.steps)
            resting, room = np.concatenate([reviewed, *self._recent]), batch_size - len(reviewed)
            due = queue.take(batch_size, room, self.steps, resting, self._concentrations)
            reviewed = np.concatenate([reviewed, due])
        return reviewed

    def _concentrations(self, where: Indices) -> tuple[FloatArray, FloatArray]:
        concentrations = self.belief.concentrations(where)
        if concentrations is None:
            raise TypeError(f"{type(self.belief).__name__} has no concentrations, which {type(self).__name__} needs.")
        return concentrations

    def forecast(self, indices: Indices) -> tuple[FloatArray, FloatArray] | None:
        """Current (α, β) of the belief for these tasks, each as long as `indices`; None if it has none."""
        return self.belief.concentrations(indices)

    def dispersion(self, indices: Indices) -> FloatArray:
        """Dispersion φ of the rewards of each task's group, as long as `indices`."""
        rewards = self.belief.reward_dispersion
        return super().dispersion(indices) if rewards is None else rewards.dispersion[self.group_codes[indices]]

    def observe(self, evidence: Evidence) -> None:
        """Updates the belief, and which of the tasks are to come back when due."""
        self.belief.observe(evidence)
        if self._queues:
            visited = evidence.merged().indices
            believed = self._concentrations(visited)
            for queue in self._queues.values():
                queue.observe(visited, *believed, self.steps - 1)

    def add_tasks(self, features: TaskFeatures) -> None:
        """Adds the new tasks to the belief, with priors from their group.

        Args:
            features: of the whole pool; its first tasks are those known before, in the same order.

        Raises:
            TypeError: the belief cannot add tasks.
            ValueError: there are fewer tasks than before, or the belief refuses the new ones.
        """
        self.check_grown(features)
        self.belief.add_tasks(features)  # first, since it may raise
        super().add_tasks(features)
        due = self._due
        self._use_groups(features)
        self._due[: len(due)] = due  # slots keep their positions; there may be a new last one

    def metrics(self) -> dict[str, float]:
        """The belief's metrics."""
        return self.belief.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Adds the belief's state and that of the rules."""
        recent = np.concatenate([np.empty(0, dtype=np.int64), *self._recent])
        return super().state_dict() | {
            "belief": self.belief.state_dict(),
            "steps": self.steps,
            "recent": recent,
            "recent_sizes": np.array([len(batch) for batch in self._recent], dtype=np.int64),
            "due": self._due.copy(),
            "queues": {name: queue.state_dict() for name, queue in self._queues.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, belief and rules.

        Raises:
            ValueError: the state was saved with another selector, pool or number of quotas.
        """
        super().load_state_dict(state)
        if len(state["due"]) != len(self._shares):
            raise ValueError(
                f"the saved selector divides each batch into {len(state['due'])} shares, this one into "
                f"{len(self._shares)}. Resume with the `group_quotas` of the checkpoint's config."
            )
        self.belief.load_state_dict(state["belief"])
        self.steps = int(state["steps"])
        for name, queue in self._queues.items():
            if name in state.get("queues", {}):  # a share may be new in this config
                queue.load_state_dict(state["queues"][name])
        sizes = np.array(state["recent_sizes"], dtype=np.int64)
        recent = np.array(state["recent"], dtype=np.int64)
        self._recent = np.split(recent, np.cumsum(sizes)[:-1]) if len(sizes) else []
        self._due = np.array(state["due"], dtype=np.float64)
