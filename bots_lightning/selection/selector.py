"""The contract of everything that chooses tasks."""

# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.chunks import Indices


class TaskSelector(ABC):
    """Chooses the tasks of the next step, and learns from what came of them.

    `setup` comes once; then `select` and `observe` alternate strictly. A selector is a deterministic state machine:
    the same state, seed and evidence give the same draws on every rank and after every resume. To write one,
    implement `select` and whatever of the rest has something to do, and call `super()` in those.
    """

    # How many selections the run is going to make, for selectors that plan ahead; whoever runs it sets it if known. In
    # training these are its iterations; dynamic sampling makes more selections, so that their plan is then over early.
    planned_selections: int | None = None

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts afresh on a pool of N tasks, with a generator of its own."""
        self.num_tasks = features.num_tasks
        self.fingerprint = features.fingerprint
        self.rng = np.random.default_rng(seed)

    @abstractmethod
    def select(self, batch_size: int) -> Indices:
        """(B,) positions of the tasks to roll out next, no task twice; call `check_batch_size` first."""

    def allocate(self, indices: Indices, num_generations: int) -> npt.NDArray[np.int64]:
        """How many rollouts each selected task gets.

        Args:
            indices: (B,) positions as of `select`.
            num_generations: rollouts per task, on average.

        Returns:
            (B,) int, at least 1 each; `num_generations` for each unless a selector decides otherwise.
        """
        return np.full(len(indices), num_generations, dtype=np.int64)

    def observe(self, evidence: Evidence) -> None:  # noqa: B027 - a selector may have nothing to learn
        """Learns from the success counts of the last step."""

    def forecast(self, indices: Indices) -> tuple[FloatArray, FloatArray] | None:
        """(α, β) of what is believed of some tasks' success probabilities, each (n,); None without a belief."""
        return None

    def dispersion(self, indices: Indices) -> FloatArray:
        """(n,) φ of some tasks' rewards: their variance over that of coin flips of the same mean; 1 unless known."""
        return np.ones(len(indices))

    def add_tasks(self, features: TaskFeatures) -> None:
        """The pool has grown while the run goes on; call between `observe` and `select`.

        Args:
            features: of the whole pool; its first N tasks are those known before, in the same order.

        Raises:
            ValueError: there are fewer tasks than before.
        """
        self.check_grown(features)
        self.num_tasks, self.fingerprint = features.num_tasks, features.fingerprint

    def metrics(self) -> dict[str, float]:
        """Numbers worth a curve, by metric name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that `select` and `observe` change, as numpy arrays, numbers and strings."""
        rng = json.dumps(self.rng.bit_generator.state)
        kind = type(self).__name__
        return {"selector": kind, "fingerprint": self.fingerprint, "num_tasks": self.num_tasks, "rng": rng}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a state saved by the same kind of selector for the same pool.

        Raises:
            ValueError: the state belongs to another selector or another pool.
        """
        if state["selector"] != type(self).__name__:
            raise ValueError(
                f"the checkpoint was saved with {state['selector']}, this run selects with {type(self).__name__}. "
                "Resume with the selector of the checkpoint, or start afresh."
            )
        if (state["fingerprint"], state["num_tasks"]) != (self.fingerprint, self.num_tasks):
            raise ValueError(
                f"the checkpoint's selector belongs to the pool {state['fingerprint']!r} of {state['num_tasks']} "
                f"tasks, this run's pool is {self.fingerprint!r} of {self.num_tasks}. Resume with the pool (files, "
                "seed, filters) of the checkpoint, or start afresh."
            )
        self.rng.bit_generator.state = json.loads(state["rng"])

    def check_grown(self, features: TaskFeatures) -> None:
        """Refuses a pool that has lost tasks.

        Raises:
            ValueError: there are fewer tasks than before.
        """
        if features.num_tasks < self.num_tasks:
            raise ValueError(
                f"the pool has {features.num_tasks} tasks, {self.num_tasks} before; tasks can be added and not removed."
            )

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a batch that the pool cannot fill with distinct tasks.

        Raises:
            ValueError: the batch is empty or exceeds the pool.
        """
        if not 1 <= batch_size <= self.num_tasks:
            raise ValueError(
                f"batch_size={batch_size} does not fit the pool of {self.num_tasks} tasks; "
                "expected 1 <= batch_size <= tasks. Lower data.batch_size or add tasks."
            )
