"""What all selectors have in common that choose by a belief."""

# Shapes: N tasks in the pool, B tasks to select, K groups, S slots of a batch.

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Belief, Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.chunks import Eligible, Indices
from bots_lightning.selection.rules import SelectionRules, whole_tasks
from bots_lightning.selection.selector import TaskSelector

# So many tasks are looked at for each batch when mastered ones are wanted.
REVIEW_CANDIDATES = 2048


class BayesianSelector(TaskSelector):
    """Chooses by what a belief says of each task, within rules for every batch; subclasses say how.

    A task whose pass rate is believed to be 0 is deferred, never dropped: beliefs forget, and every task can come up.

    Args:
        belief: what is known of each task.
        rules: cooldown, group quotas and review share; none by default.
    """

    def __init__(self, belief: Belief, rules: SelectionRules | None = None) -> None:
        self.belief = belief
        self.rules = rules or SelectionRules()

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts the belief from its prior."""
        super().setup(features, seed)
        self.belief.setup(features)
        self._use_groups(features)
        self.steps = 0
        self._recent: list[Indices] = []  # the batches that rest, oldest first
        self._review_due = 0.0

    def _use_groups(self, features: TaskFeatures) -> None:
        self.group_codes = features.group_codes
        self._shares, self._slots = self.rules.slots(features.group_names)
        self._due = np.zeros(len(self._shares))
        self._members: list[npt.NDArray[Any]] | None = None

    def _members_of(self, eligible: Eligible) -> list[npt.NDArray[Any]]:
        """The tasks of each slot, in the order of the pool; with quotas they are kept, 4 bytes a task."""
        if eligible.slots is None:
            return [np.arange(self.num_tasks)]
        if self._members is None:
            places = eligible.places(np.arange(self.num_tasks), len(self._shares))
            self._members = [tasks.astype(np.uint32) for tasks in places]
        return self._members

    def select(self, batch_size: int) -> Indices:
        """(B,) tasks, the best of each slot first."""
        self.check_batch_size(batch_size)
        batch = self._review(batch_size)
        self._due += (batch_size - len(batch)) * self._shares
        sizes = whole_tasks(self._due, batch_size - len(batch))
        self._due -= sizes
        batch = self._extended(batch, sizes, self._recent, self._slots)
        for rested in range(len(self._recent) + 1):  # a group, or the pool, may have too few tasks that may be chosen
            missing = np.array([batch_size - len(batch)])
            batch = self._extended(batch, missing, self._recent[rested:], None)
        if len(batch) < batch_size:
            raise RuntimeError(
                f"{type(self).__name__} chose {len(batch)} of {batch_size} tasks, though {self.num_tasks - len(batch)} "
                f"are left: what {type(self.belief).__name__} says of them is not finite. Check its `mean`, `sample` "
                "and `concentrations`."
            )
        self._recent = [*self._recent, batch][-self.rules.cooldown :] if self.rules.cooldown else []
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
        """The best eligible tasks of each slot, best first; fewer only if there are not so many.

        Args:
            sizes: (S,) how many.
            eligible: which may be chosen, and for which slot.
        """

    def _review(self, batch_size: int) -> Indices:
        """Tasks believed mastered, at random, for the review share; the batch's other tasks fill what it lacks."""
        self._review_due += self.rules.review_share * batch_size
        size = int(self._review_due)
        if size == 0:
            return np.empty(0, dtype=np.int64)
        self._review_due -= size
        candidates = self.rng.choice(self.num_tasks, min(self.num_tasks, REVIEW_CANDIDATES), replace=False)
        candidates = candidates[~np.isin(candidates, np.concatenate([candidates[:0], *self._recent]))]
        alpha, beta = self._concentrations(candidates)
        return candidates[alpha / (alpha + beta) >= self.rules.mastered][:size]

    def _concentrations(self, where: Indices) -> tuple[FloatArray, FloatArray]:
        concentrations = self.belief.concentrations(where)
        if concentrations is None:
            raise TypeError(f"{type(self.belief).__name__} has no concentrations, which {type(self).__name__} needs.")
        return concentrations

    def forecast(self, indices: Indices) -> tuple[FloatArray, FloatArray] | None:
        """(α, β) of some tasks as believed now."""
        return self.belief.concentrations(indices)

    def dispersion(self, indices: Indices) -> FloatArray:
        """φ as the belief has seen it in each task's group."""
        shape = self.belief.reward_dispersion
        return super().dispersion(indices) if shape is None else shape.dispersion[self.group_codes[indices]]

    def observe(self, evidence: Evidence) -> None:
        """Updates the belief."""
        self.belief.observe(evidence)

    def add_tasks(self, features: TaskFeatures) -> None:
        """The belief takes the new tasks in, with priors from their group."""
        self.check_grown(features)
        self.belief.add_tasks(features)  # first, as a belief may refuse them
        super().add_tasks(features)
        due = self._due
        self._use_groups(features)
        self._due[: len(due)] = due  # slots keep their places; there may be a new last one

    def metrics(self) -> dict[str, float]:
        """The belief's metrics."""
        return self.belief.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Adds the belief's state and what the rules remember."""
        recent = np.concatenate([np.empty(0, dtype=np.int64), *self._recent])
        return super().state_dict() | {
            "belief": self.belief.state_dict(),
            "steps": self.steps,
            "recent": recent,
            "recent_sizes": np.array([len(batch) for batch in self._recent], dtype=np.int64),
            "due": self._due.copy(),
            "review_due": self._review_due,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator, belief and rules.

        Raises:
            ValueError: the state was saved with quotas for other groups.
        """
        super().load_state_dict(state)
        if len(state["due"]) != len(self._shares):
            raise ValueError(
                f"the saved selector fills {len(state['due'])} shares of each batch, this one {len(self._shares)}. "
                "Resume with the `group_quotas` of the checkpoint's config."
            )
        self.belief.load_state_dict(state["belief"])
        self.steps, self._review_due = int(state["steps"]), float(state["review_due"])
        sizes = np.array(state["recent_sizes"], dtype=np.int64)
        recent = np.array(state["recent"], dtype=np.int64)
        self._recent = np.split(recent, np.cumsum(sizes)[:-1]) if len(sizes) else []
        self._due = np.array(state["due"], dtype=np.float64)
