"""The verifiers of reasoning-gym as a reward, in processes of their own."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from bots_lightning.rewards.answers import AnswerMatch
from bots_lightning.rewards.graded import GradedReward, Outcomes
from bots_lightning.rewards.workers import WorkerPool
from bots_lightning.tasks.reasoning_gym import new_dataset

# (generator, settings, entry, answer), the first three as in the columns of `ReasoningGymTasks`.
Item = tuple[str, str, str, str]
# Loads the library, before a worker grades an item under its time limit.
REHEARSAL: Item = ("gcd", "{}", repr({"question": "", "answer": "1", "metadata": {}}), "1")


@lru_cache(maxsize=256)
def verifier(generator: str, settings: str) -> Any:
    """The dataset whose `score_answer` grades, for settings in JSON."""
    return new_dataset(generator, json.loads(settings))


def score(item: Item) -> float:
    """Grades one answer with the generator's own verifier, from 0 to 1."""
    generator, settings, entry, answer = item
    return float(verifier(generator, settings).score_answer(answer, ast.literal_eval(entry)))


class ReasoningGymReward(GradedReward):
    """Grades answers with reasoning-gym's own verifiers, from 0 to 1; some give partial credit.

    Tasks come from `ReasoningGymTasks`. A task of another source has the reward None. An answer that takes a verifier
    too long, or that it fails at, has the reward 0 and is counted in `outcomes`.

    Args:
        tag: the answer stands in the last `<tag>…</tag>`, without which the reward is 0. None: it is what follows
            `</think>`, or the whole completion.
        threshold: rewards become 1 from here on and 0 below; none keeps partial credit.
        timeout_seconds: for one answer.
        num_workers: processes; by default as many as cores, 16 at most.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        tag: str | None = "answer",
        threshold: float | None = None,
        timeout_seconds: float = 10.0,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold}; expected a number in (0, 1], or none for partial credit.")
        self.answers = AnswerMatch(tag=tag)
        self.threshold = threshold
        self.pool = WorkerPool(score, timeout_seconds, num_workers, rehearsal=[REHEARSAL])

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Grades R completions, and sets `outcomes`.

        Args:
            prompts: not used.
            completions: R texts.
            answer: not used; the verifiers take it from `entry`.
            **columns: `generator`, `settings` and `entry` of `ReasoningGymTasks`.

        Returns:
            R rewards, None for tasks of another source.

        Raises:
            RewardPoolError: nothing can be graded any more.
        """
        nothing = [None] * len(completions)
        tasks = list(zip(*(columns.get(name, nothing) for name in ("generator", "settings", "entry")), strict=True))
        given = [self.answers.given(completion) for completion in completions]
        rewards: list[float | None] = [None if None in task else 0.0 for task in tasks]
        rows = [row for row, text in enumerate(given) if text is not None and rewards[row] is not None]
        verdicts = self.pool.map([(*tasks[row], given[row]) for row in rows])
        for row, verdict in zip(rows, verdicts, strict=True):
            rewards[row] = self._reward(verdict.value) if verdict.outcome == "done" else 0.0
        outcomes = [verdict.outcome for verdict in verdicts]
        self.outcomes = Outcomes(len(rows), outcomes.count("timeout"), outcomes.count("error"))
        return rewards

    def _reward(self, value: float) -> float:
        return value if self.threshold is None else float(value >= self.threshold)

    def close(self) -> None:
        """Ends the processes; the next call starts new ones."""
        self.pool.close()
