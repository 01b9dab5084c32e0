"""Applies reward functions to rollouts and checks what they return."""

# Shapes: F functions, B tasks, n_b rollouts of task b (counts), R = Σ n_b rows; the rows of a task follow each other.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from bots_lightning.rewards.calls import (
    NAMED,
    check_completions,
    checked_scores,
    row_columns,
    shared_columns,
    tasks_of_rows,
)
from bots_lightning.rewards.graded import GradedReward, Outcomes
from bots_lightning.rewards.ranges import ScoreRange
from bots_lightning.rewards.signatures import ChatReward, RewardFunction, accepted, adapted, name_of
from bots_lightning.rewards.style import CosineLength
from bots_lightning.tasks import Task


@final
class Scorer:
    """The weighted sum of reward functions, in a declared range.

    A function returns None where it does not apply; its share is then left out of that rollout's sum. A rollout to
    which none applies has the reward NaN and takes no part in advantages and evidence.

    Args:
        reward_funcs: in TRL's signature or verl's, by dotted path in YAML; each gets the prompts, the completions and
            every column of the tasks.
        reward_weights: one per function; all 1 by default.
        reward_range: the smallest and the largest weighted sum. Without `evidence`, it maps rewards to [0, 1].
        evidence: the reward function that says whether a task is solved, by its name or its place in `reward_funcs`:
            beliefs, held-out scores and pass rates are of its own scores, while the policy learns from the weighted sum
            all the same. None: that sum, mapped to [0, 1] by `reward_range`.
        evidence_range: the smallest and the largest score of that function.

    Attributes:
        functions: the F reward functions, in TRL's signature.
        names: of the functions, each once.
        outcomes: how completions were graded, where a function counts that; summed up until it is set anew.

    Raises:
        ValueError: there is no function, a function has neither signature, weights are missing or superfluous, a range
            is empty, or `evidence` names no function.
    """

    def __init__(
        self,
        reward_funcs: list[RewardFunction],
        reward_weights: list[float] | None = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
        evidence: int | str | None = None,
        evidence_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        count = len(reward_funcs)
        if not count:
            raise ValueError("reward_funcs is empty; expected at least one reward function.")
        if reward_weights is not None and len(reward_weights) != count:
            raise ValueError(f"{len(reward_weights)} reward_weights for {count} reward_funcs; expected one for each.")
        self.functions = [adapted(function) for function in reward_funcs]
        self.names = _distinct([name_of(function) for function in reward_funcs])
        self.weights = np.ones(count) if reward_weights is None else np.asarray(reward_weights, dtype=np.float64)
        self.range = ScoreRange("reward_range", reward_range, "the weighted sum of all reward functions")
        self.low, self.high = self.range.low, self.range.high
        self.counted = None if evidence is None else self._position(evidence)
        self.evidence_range = ScoreRange("evidence_range", evidence_range, "the score of this function")
        self.outcomes = Outcomes()

    def __call__(
        self, tasks: Sequence[Task], completions: Sequence[str], counts: Sequence[int] | None = None
    ) -> npt.NDArray[np.float64]:
        """Rewards of completions.

        Args:
            tasks: B of them.
            completions: R texts.
            counts: (B,) rollouts of each task; by default as many of each.

        Returns:
            (R,) float, NaN where no function applies.

        Raises:
            ValueError: a function returns the wrong number of rewards, or a reward is outside the range.
        """
        if counts is None:
            each, rest = divmod(len(completions), len(tasks))
            if rest:
                raise ValueError(f"{len(completions)} completions of {len(tasks)} tasks; expected as many of each.")
            counts = [each] * len(tasks)
        return self.combine(self.scores(tasks, counts, completions), tasks_of_rows(tasks, counts))

    def scores(
        self,
        tasks: Sequence[Task],
        counts: Sequence[int],
        completions: Sequence[str],
        completion_ids: Sequence[list[int]] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Calls each of the F functions; adds what they count to `outcomes`.

        Args:
            tasks: B of them.
            counts: (B,) rollouts of each task.
            completions: R texts.
            completion_ids: R lists of their tokens, for functions that count those.

        Returns:
            (F, R) float, unweighted, NaN where a function does not apply.

        Raises:
            ValueError: counts and completions do not match, or a function returns the wrong number of rewards, or no
                number.
        """
        rows = tasks_of_rows(tasks, counts)
        check_completions(completions, tasks, len(rows))
        columns = row_columns(rows, shared_columns(tasks))
        tokens = {} if completion_ids is None else {"completion_ids": list(completion_ids)}
        scores = [
            checked_scores(function, completions, columns if isinstance(function, GradedReward) else columns | tokens)
            for function in self.functions
        ]
        for grader in self.graders:
            self.outcomes += grader.outcomes
        return np.stack(scores)

    def check_columns(self, names: Iterable[str]) -> None:
        """Refuses functions that need other columns than tasks have, before any of them is called.

        Args:
            names: of the tasks' columns.

        Raises:
            RewardFunctionError: names the function, what it needs and what there is.
        """
        given = dict.fromkeys({*names, *NAMED, "prompts", "completions", "completion_ids"})
        for function in self.functions:
            accepted(function.function if isinstance(function, ChatReward) else function, given)

    def fault(self, task: Task) -> str | None:
        """What is wrong with a task's answer, by the first graded reward that finds something; None if none does."""
        return next((fault for grader in self.graders if (fault := grader.fault(task)) is not None), None)

    def close(self) -> None:
        """Ends the processes of reward functions that have some."""
        for grader in self.graders:
            grader.close()

    @property
    def graders(self) -> list[GradedReward]:
        """The graded rewards among the functions, and those that a function asks."""
        return [grader for function in self.functions if (grader := grader_in(function)) is not None]

    def combine(self, scores: npt.NDArray[np.float64], rows: Sequence[Task]) -> npt.NDArray[np.float64]:
        """The weighted sum of the functions that apply.

        Args:
            scores: (F, R) as of `scores`.
            rows: R tasks, that of each row (`tasks_of_rows`), named in errors.

        Returns:
            (R,) float, NaN where no function applies.

        Raises:
            ValueError: a reward is outside the range.
        """
        applies = np.isfinite(scores)
        rewards = np.where(applies, scores * self.weights[:, None], 0.0).sum(axis=0)
        rewards[~applies.any(axis=0)] = np.nan
        self.range.check(rewards, rows, "the reward")
        return rewards

    def evidence(
        self, scores: npt.NDArray[np.float64], rewards: npt.NDArray[np.float64], rows: Sequence[Task]
    ) -> npt.NDArray[np.float64]:
        """How far each rollout solves its task: the source of beliefs, held-out scores and pass rates.

        Args:
            scores: (F, R) as of `scores`.
            rewards: (R,), their weighted sum.
            rows: R tasks, that of each row (`tasks_of_rows`), named in errors.

        Returns:
            (R,) float in [0, 1], NaN where there is none: of `evidence` if one is named, else the rewards' fraction.

        Raises:
            ValueError: a score is outside the range.
        """
        if self.counted is None:
            return self.fraction(rewards)
        own = scores[self.counted]
        self.evidence_range.check(own, rows, f"{self.names[self.counted]}'s score")
        return self.evidence_range.fraction(own)

    def fraction(self, rewards: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Rewards mapped from the declared range to [0, 1], of the same shape."""
        return self.range.fraction(rewards)

    def _position(self, evidence: int | str) -> int:
        """The place of a function among all, by that place or its name."""
        places = {name: place for place, name in enumerate(self.names)}
        if evidence in places:
            return places[str(evidence)]
        if isinstance(evidence, int) and 0 <= evidence < len(self.names):
            return evidence
        named = ", ".join(f"{place}: {name}" for name, place in places.items())
        raise ValueError(f"evidence={evidence!r} names none of reward_funcs; expected a place or a name of {named}.")


def grader_in(function: RewardFunction) -> GradedReward | None:
    """The graded reward that a function is, or asks; None if there is none."""
    asked = function.grader if isinstance(function, CosineLength) else function
    return asked if isinstance(asked, GradedReward) else None


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with -2, -3, … after those that came before."""
    return [name if (n := names[:i].count(name)) == 0 else f"{name}-{n + 1}" for i, name in enumerate(names)]
