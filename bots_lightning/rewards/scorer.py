"""Applies reward functions to rollouts and checks what they return."""

# Shapes: B tasks, G rollouts per task.

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bots_lightning.rewards.calls import checked_scores, row_columns, shared_columns
from bots_lightning.rewards.judged import JudgedReward, Outcomes
from bots_lightning.rewards.signatures import RewardFunction, adapted
from bots_lightning.tasks import Task


class Scorer:
    """The weighted sum of reward functions, in a declared range.

    A function returns None where it does not apply; its share is then left out of that rollout's sum. A rollout to
    which none applies has the reward NaN and takes no part in advantages and evidence.

    Args:
        functions: in TRL's signature or verl's, see `adapted`; each gets the prompts, the completions and every column
            of the tasks.
        weights: one per function; all 1 by default.
        reward_range: the smallest and the largest sum. Rewards map to [0, 1] by it; the belief counts those.

    Attributes:
        outcomes: how completions were judged, where a function counts that; summed up until it is set anew.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        weights: Sequence[float] | None = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not functions:
            raise ValueError("reward_funcs is empty; expected at least one reward function.")
        if weights is not None and len(weights) != len(functions):
            raise ValueError(f"{len(weights)} reward_weights for {len(functions)} reward_funcs; expected one for each.")
        low, high = reward_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"reward_range={tuple(reward_range)}; expected two finite numbers, low < high.")
        self.functions = [adapted(function) for function in functions]
        self.names = _distinct([getattr(f, "__name__", type(f).__name__) for f in functions])
        self.weights = np.ones(len(functions)) if weights is None else np.asarray(weights, dtype=np.float64)
        self.low, self.high = float(low), float(high)
        self.outcomes = Outcomes()

    def __call__(self, tasks: Sequence[Task], completions: Sequence[str]) -> npt.NDArray[np.float64]:
        """Rewards of B·G completions, row b·G + j being completion j of task b.

        Returns:
            (B, G) float, NaN where no function applies.

        Raises:
            ValueError: a function returns the wrong number of rewards, or a reward is outside the range.
        """
        return self.combine(self.scores(tasks, completions), tasks)

    def scores(self, tasks: Sequence[Task], completions: Sequence[str]) -> npt.NDArray[np.float64]:
        """What each of the F functions says, unweighted.

        Returns:
            (F, B, G) float, NaN where a function does not apply.

        Raises:
            ValueError: a function returns the wrong number of rewards, or no number.
        """
        generations, rest = divmod(len(completions), len(tasks))
        if rest:
            raise ValueError(f"{len(completions)} completions of {len(tasks)} tasks; expected as many of each.")
        columns = row_columns(tasks, generations, shared_columns(tasks))
        scores = np.stack([checked_scores(function, completions, columns) for function in self.functions])
        for judged in self._judged:
            self.outcomes += judged.outcomes
        return scores.reshape(len(scores), len(tasks), generations)

    def close(self) -> None:
        """Ends the processes of reward functions that have some."""
        for judged in self._judged:
            judged.close()

    @property
    def _judged(self) -> list[JudgedReward]:
        return [function for function in self.functions if isinstance(function, JudgedReward)]

    def combine(self, scores: npt.NDArray[np.float64], tasks: Sequence[Task]) -> npt.NDArray[np.float64]:
        """The weighted sum of the functions that apply.

        Args:
            scores: (F, B, G) as of `scores`.
            tasks: B of them, named in errors.

        Raises:
            ValueError: a reward is outside the range.
        """
        applies = np.isfinite(scores)
        rewards = np.where(applies, scores * self.weights[:, None, None], 0.0).sum(axis=0)
        rewards[~applies.any(axis=0)] = np.nan
        self._check_range(rewards, tasks)
        return rewards

    def fraction(self, rewards: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Rewards mapped from the declared range to [0, 1]."""
        return np.clip((rewards - self.low) / (self.high - self.low), 0.0, 1.0)

    def _check_range(self, rewards: npt.NDArray[np.float64], tasks: Sequence[Task]) -> None:
        slack = 1e-6 * (self.high - self.low)
        outside = np.argwhere((rewards < self.low - slack) | (rewards > self.high + slack))
        if len(outside):
            task, generation = outside[0]
            raise ValueError(
                f"task {tasks[task].id!r} got the reward {rewards[task, generation]:g}, outside "
                f"reward_range=({self.low:g}, {self.high:g}). Declare the range that the weighted sum of "
                "all reward functions can take."
            )


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with -2, -3, … after those that came before."""
    return [name if (n := names[:i].count(name)) == 0 else f"{name}-{n + 1}" for i, name in enumerate(names)]
