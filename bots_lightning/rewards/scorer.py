"""Applies reward functions to rollouts and checks what they return."""

# Shapes: B tasks, G rollouts per task.

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from bots_lightning.rewards.calls import NAMED, checked_scores, row_columns, shared_columns
from bots_lightning.rewards.judged import JudgedReward, Outcomes
from bots_lightning.rewards.ranges import ScoreRange
from bots_lightning.rewards.signatures import ChatReward, RewardFunction, accepted, adapted, name_of
from bots_lightning.rewards.style import CosineLength
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
        evidence: the function whose own scores the belief counts instead, by its name or its place in `functions`.
        evidence_range: the smallest and the largest score of that function.

    Attributes:
        names: of the functions, each once.
        outcomes: how completions were judged, where a function counts that; summed up until it is set anew.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        weights: Sequence[float] | None = None,
        reward_range: tuple[float, float] = (0.0, 1.0),
        evidence: int | str | None = None,
        evidence_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not functions:
            raise ValueError("reward_funcs is empty; expected at least one reward function.")
        if weights is not None and len(weights) != len(functions):
            raise ValueError(f"{len(weights)} reward_weights for {len(functions)} reward_funcs; expected one for each.")
        self.functions = [adapted(function) for function in functions]
        self.names = _distinct([name_of(function) for function in functions])
        self.weights = np.ones(len(functions)) if weights is None else np.asarray(weights, dtype=np.float64)
        self.range = ScoreRange("reward_range", reward_range, "the weighted sum of all reward functions")
        self.low, self.high = self.range.low, self.range.high
        self.counted = None if evidence is None else self._position(evidence)
        self.evidence_range = ScoreRange("evidence_range", evidence_range, "the score of this function")
        self.outcomes = Outcomes()

    def __call__(self, tasks: Sequence[Task], completions: Sequence[str]) -> npt.NDArray[np.float64]:
        """Rewards of B·G completions, row b·G + j being completion j of task b.

        Returns:
            (B, G) float, NaN where no function applies.

        Raises:
            ValueError: a function returns the wrong number of rewards, or a reward is outside the range.
        """
        return self.combine(self.scores(tasks, completions), tasks)

    def scores(
        self,
        tasks: Sequence[Task],
        completions: Sequence[str],
        completion_ids: Sequence[list[int]] | None = None,
    ) -> npt.NDArray[np.float64]:
        """What each of the F functions says, unweighted.

        Args:
            tasks: B of them.
            completions: B·G texts.
            completion_ids: their tokens, for functions that count those.

        Returns:
            (F, B, G) float, NaN where a function does not apply.

        Raises:
            ValueError: a function returns the wrong number of rewards, or no number.
        """
        generations, rest = divmod(len(completions), len(tasks))
        if rest:
            raise ValueError(f"{len(completions)} completions of {len(tasks)} tasks; expected as many of each.")
        columns = row_columns(tasks, generations, shared_columns(tasks))
        tokens = {} if completion_ids is None else {"completion_ids": list(completion_ids)}
        scores = [
            checked_scores(function, completions, columns if isinstance(function, JudgedReward) else columns | tokens)
            for function in self.functions
        ]
        for judge in self.judges:
            self.outcomes += judge.outcomes
        return np.stack(scores).reshape(len(scores), len(tasks), generations)

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
        """What is wrong with a task's answer, by the first judged reward that finds something; None if none does."""
        return next((fault for judge in self.judges if (fault := judge.fault(task)) is not None), None)

    def close(self) -> None:
        """Ends the processes of reward functions that have some."""
        for judge in self.judges:
            judge.close()

    @property
    def judges(self) -> list[JudgedReward]:
        """The judged rewards that the functions are, or ask."""
        return [judge for function in self.functions if (judge := judge_in(function)) is not None]

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
        self.range.check(rewards, tasks, "the reward")
        return rewards

    def evidence(
        self, scores: npt.NDArray[np.float64], rewards: npt.NDArray[np.float64], tasks: Sequence[Task]
    ) -> npt.NDArray[np.float64]:
        """How far each rollout solves its task: what beliefs count, and what held-out scores and pass rates are of.

        Args:
            scores: (F, B, G) as of `scores`.
            rewards: (B, G), their weighted sum.
            tasks: B of them, named in errors.

        Returns:
            (B, G) float in [0, 1], NaN where there is none: of `evidence` if one is named, else the rewards' fraction.

        Raises:
            ValueError: a score is outside the range.
        """
        if self.counted is None:
            return self.fraction(rewards)
        own = scores[self.counted]
        self.evidence_range.check(own, tasks, f"{self.names[self.counted]}'s score")
        return self.evidence_range.fraction(own)

    def fraction(self, rewards: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Rewards mapped from the declared range to [0, 1]."""
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


def judge_in(function: RewardFunction) -> JudgedReward | None:
    """The judged reward that a function is, or asks; None if there is none."""
    asked = function.judge if isinstance(function, CosineLength) else function
    return asked if isinstance(asked, JudgedReward) else None


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with -2, -3, … after those that came before."""
    return [name if (n := names[:i].count(name)) == 0 else f"{name}-{n + 1}" for i, name in enumerate(names)]
