"""DPS: a hidden Markov model of each task, and the tasks that are most likely to be partly solved."""

# Shapes: N tasks in the pool, V tasks that the model tells from untried ones, B tasks to select; states: 0 unsolved,
# 1 partly solved, 2 solved.

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bots_lightning.beliefs import Evidence, TaskFeatures
from bots_lightning.beliefs.belief import FloatArray
from bots_lightning.options import check_numbers
from bots_lightning.selection.chunks import Indices, smallest_with_random_ties
from bots_lightning.selection.selector import TaskSelector

STATES, PARTLY, SOLVED = 3, 1, 2
# A task whose model differs from that of an untried one by less is an untried one.
FORGOTTEN = 1e-12


def predicted(states: FloatArray, transitions: FloatArray) -> FloatArray:
    """The distribution of each task's next state under its expected transition probabilities.

    Args:
        states: (V, 3) distribution of the present state.
        transitions: (V, 3, 3) Dirichlet weights of the transitions, from the state of the row to that of the column.

    Returns:
        (V, 3).
    """
    expected = transitions / transitions.sum(axis=2, keepdims=True)
    following: FloatArray = np.einsum("vi,vij->vj", states, expected)
    return following


def transition_counts(states: FloatArray, transitions: FloatArray, observed: npt.NDArray[np.int64]) -> FloatArray:
    """The probability of each transition, given that it ended in the observed state.

        ξ_ij ∝ P(i) E[T_ij] 1[j = observed]

    Args:
        states: (V, 3) distribution of the state before.
        transitions: (V, 3, 3) Dirichlet weights.
        observed: (V,) the state after.

    Returns:
        (V, 3, 3), each matrix summing to 1.
    """
    expected = transitions / transitions.sum(axis=2, keepdims=True)
    joint: FloatArray = states[:, :, None] * expected * (np.arange(STATES) == observed[:, None])[:, None, :]
    joint /= joint.sum(axis=(1, 2), keepdims=True)
    return joint


class DPSSelector(TaskSelector):
    """Selects the B tasks with the highest predicted probability of being partly solved, ties broken at random.

    Each task is a Markov chain over the states unsolved, partly solved and solved; a visit shows its state, by whether
    none, some or all of its rollouts succeeded. At each step, with Dirichlet weights W of the transitions, the prior
    weight W0 and ξ of `transition_counts`,

        W ← γ W + (1−γ) W0 + ξ      for the tasks of the step, whose state is then known
        W ← γ W + (1−γ) W0          for all others, whose state is the predicted one

    This is dynamics-predictive sampling (DPS, arXiv:2603.10887) with its uniform priors; the paper selects from a
    random subset of the pool, here every task is a candidate. A task that has not been tried for long is as an untried
    one, up to rounding (γ = 0.7: after some 75 steps), so that only the others are held and updated. Groups of equal
    rewards between the ends of the range count as partly solved.

    Args:
        decay: γ, the share of the weights that is kept at each step; the rest returns to the prior.
        prior: W0, of every transition.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, decay: float = 0.7, prior: float = 1.0) -> None:
        check_numbers(0, high=1, decay=decay)
        check_numbers(0, above=True, below=True, prior=prior)
        self.decay = decay
        self.prior = prior

    def setup(self, features: TaskFeatures, seed: int = 0) -> None:
        """Starts with all tasks untried, in each state with probability 1/3.

        Args:
            features: of the pool's tasks.
            seed: of the generator that breaks ties.
        """
        super().setup(features, seed)
        self._tasks = np.empty(0, dtype=np.int64)  # (V,) ascending
        self._states = np.empty((0, STATES))  # of the last step
        self._transitions = np.empty((0, STATES, STATES))

    def partly_solved(self, tasks: Indices) -> FloatArray:
        """The predicted probability that each of these tasks is partly solved, as long as `tasks`."""
        probabilities = np.full(len(tasks), 1 / STATES)
        _, here, held = np.intersect1d(tasks, self._tasks, return_indices=True)
        probabilities[here] = predicted(self._states[held], self._transitions[held])[:, PARTLY]
        return probabilities

    def select(self, batch_size: int) -> Indices:
        """(B,) positions of the selected tasks, most probably partly solved first."""
        self.check_batch_size(batch_size)
        told = self._tasks[np.abs(self.partly_solved(self._tasks) - 1 / STATES) > FORGOTTEN]
        drawn = self.rng.choice(self.num_tasks, min(batch_size + len(told), self.num_tasks), replace=False)
        others = drawn[~np.isin(drawn, told)][:batch_size]  # all alike
        tasks = np.concatenate([told, others])
        return tasks[smallest_with_random_ties(-self.partly_solved(tasks), batch_size, self.rng)]

    def observe(self, evidence: Evidence) -> None:
        """Updates the models of all tasks by one step; rows of one task are one visit."""
        evidence = evidence.merged()
        self._hold(evidence.indices)
        solved = np.where(evidence.successes == evidence.counts, SOLVED, PARTLY)
        observed = np.where(evidence.successes == 0, 0, solved)
        visited = np.searchsorted(self._tasks, evidence.indices)
        counts = transition_counts(self._states[visited], self._transitions[visited], observed)
        self._states = predicted(self._states, self._transitions)
        self._states[visited] = np.eye(STATES)[observed]
        self._transitions = self.decay * self._transitions + (1 - self.decay) * self.prior
        self._transitions[visited] += counts
        self._forget()

    def _hold(self, tasks: Indices) -> None:
        """Holds models of these tasks too, from now on."""
        new = np.setdiff1d(tasks, self._tasks, assume_unique=True)
        self._tasks = np.concatenate([self._tasks, new])
        order = np.argsort(self._tasks)
        self._tasks = self._tasks[order]
        states = np.full((len(new), STATES), 1 / STATES)
        transitions = np.full((len(new), STATES, STATES), self.prior)
        self._states = np.concatenate([self._states, states])[order]
        self._transitions = np.concatenate([self._transitions, transitions])[order]

    def _forget(self) -> None:
        """Drops the models that are those of untried tasks."""
        far = np.abs(self._transitions - self.prior).max(axis=(1, 2)) > FORGOTTEN
        far |= np.abs(self._states - 1 / STATES).max(axis=1) > FORGOTTEN
        self._tasks, self._states, self._transitions = self._tasks[far], self._states[far], self._transitions[far]

    def metrics(self) -> dict[str, float]:
        """Number of tasks that the model tells from untried ones."""
        return {"selection/tracked_tasks": float(len(self._tasks))}

    def state_dict(self) -> dict[str, Any]:
        """Adds the models of the tasks that are held."""
        arrays = {"tasks": self._tasks.copy(), "states": self._states.copy()}
        return super().state_dict() | arrays | {"transitions": self._transitions.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores generator and models."""
        super().load_state_dict(state)
        self._tasks = np.array(state["tasks"], dtype=np.int64)
        self._states = np.array(state["states"], dtype=np.float64).reshape(-1, STATES)
        self._transitions = np.array(state["transitions"], dtype=np.float64).reshape(-1, STATES, STATES)
