"""The interface of selectors."""

# Shapes: N tasks in the pool, B tasks to select.

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.selection.chunks import Indices


class TaskSelector(ABC):
    """Selects the tasks of each step and learns from their evidence.

    Call `setup` once, then `select` and `observe` alternately. A selector is a deterministic state machine: the same
    state, seed and evidence give the same draws on every rank and after every resume. Subclasses implement `select`,
    and override other methods where they have something to add to `super()`.
    """

    # Number of selections of the run, for selectors that plan ahead; set by the run if it is known. In training it is
    # the number of iterations. Dynamic sampling makes more selections, so that the plan then ends early.
    planned_selections: int | None = None

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts on a pool of N tasks.

        Args:
            features: of the pool's tasks.
            seed: of the selector's own generator.
        """
        self.num_tasks = features.num_tasks
        self.fingerprint = features.fingerprint
        self.rng = np.random.default_rng(seed)

    @abstractmethod
    def select(self, batch_size: int) -> Indices:
        """Selects the tasks to roll out next. Implementations call `check_batch_size` first.

        Args:
            batch_size: B.

        Returns:
            (B,) positions in the pool, all different.

        Raises:
            ValueError: the batch is empty or exceeds the pool.
        """

    def observe(self, evidence: Evidence) -> None:  # noqa: B027 - a selector may have nothing to learn
        """Learns from the success counts of a step.

        Args:
            evidence: one or more rows for each task of the step.
        """

    def forecast(self, indices: Indices) -> tuple[FloatArray, FloatArray] | None:
        """Predicts success probabilities.

        Args:
            indices: (n,) positions of tasks.

        Returns:
            (α, β) of the tasks' Beta distributions, each (n,); None for a selector without a belief.
        """
        return None

    def dispersion(self, indices: Indices) -> FloatArray:
        """Dispersion φ of tasks' rewards: their variance over that of Bernoulli trials of the same mean.

        Args:
            indices: (n,) positions of tasks.

        Returns:
            (n,) φ; 1 if unknown.
        """
        return np.ones(len(indices))

    def add_tasks(self, features: TaskFeatures) -> None:
        """Adds the new tasks of a pool that has grown; call it between `observe` and `select`.

        Args:
            features: of the whole pool; its first N tasks are those known before, in the same order.

        Raises:
            ValueError: there are fewer tasks than before.
        """
        self.check_grown(features)
        self.num_tasks, self.fingerprint = features.num_tasks, features.fingerprint

    def metrics(self) -> dict[str, float]:
        """Metrics to log, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that `select` and `observe` change, as numpy arrays, numbers and strings."""
        rng = json.dumps(self.rng.bit_generator.state)
        kind = type(self).__name__
        return {"selector": kind, "fingerprint": self.fingerprint, "num_tasks": self.num_tasks, "rng": rng}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state saved by the same class of selector for the same pool.

        Args:
            state: as returned by `state_dict`.

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
        """Checks that a pool has not lost tasks.

        Args:
            features: of the whole pool.

        Raises:
            ValueError: there are fewer tasks than before.
        """
        if features.num_tasks < self.num_tasks:
            raise ValueError(
                f"the pool has {features.num_tasks} tasks, {self.num_tasks} before; tasks can be added and not removed."
            )

    def check_batch_size(self, batch_size: int) -> None:
        """Checks that the pool can fill a batch with distinct tasks.

        Args:
            batch_size: B.

        Raises:
            ValueError: the batch is empty or exceeds the pool.
        """
        if not 1 <= batch_size <= self.num_tasks:
            raise ValueError(
                f"batch_size={batch_size} does not fit the pool of {self.num_tasks} tasks; "
                "expected 1 <= batch_size <= tasks. Lower data.batch_size or add tasks."
            )
