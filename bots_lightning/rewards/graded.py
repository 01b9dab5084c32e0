"""Reward functions that grade each completion outside of this process, under a time limit."""

# Shapes: R completions.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bots_lightning.tasks import Task


class RewardPoolError(RuntimeError):
    """No worker process is left and new ones end at once: the machine's fault, not that of the completions."""


@dataclass(frozen=True)
class Outcomes:
    """How many completions were graded, and how many of them could not be; sums of several calls add up.

    Attributes:
        items: completions that were graded.
        timeouts: those that took too long and were scored 0.
        errors: those at which the grader itself failed and that were scored 0.
    """

    items: int = 0
    timeouts: int = 0
    errors: int = 0

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.items + other.items, self.timeouts + other.timeouts, self.errors + other.errors)

    def fractions(self) -> dict[str, float]:
        """Shares of the items, as metrics by name; empty where nothing was graded."""
        if not self.items:
            return {}
        return {"rewards/timeout_frac": self.timeouts / self.items, "rewards/error_frac": self.errors / self.items}


class GradedReward(ABC):
    """A reward function, in TRL's signature, that counts the completions that it could not grade.

    In training it is called on another thread than the main one, several times a step, each time with all completions
    of some tasks of the batch: those that have been sampled by then (see `RewardStream`). So a subclass grades each
    completion by itself, without regard to those beside it, and does nothing that only the main thread may do, such as
    setting signal handlers. A call whose batch was given up may still be running when the next begins: calls that share
    anything, such as processes, need a lock.

    Attributes:
        outcomes: of the last call; a run logs the shares as `rewards/timeout_frac` and `rewards/error_frac`.
    """

    def __init__(self) -> None:
        self.outcomes = Outcomes()

    @abstractmethod
    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Grades completions, and sets `outcomes`.

        Args:
            prompts: R of them.
            completions: R texts.
            answer: R answers, each that of the completion's task.
            **columns: R values each, as in `rewards.signatures`, except `completion_ids`.

        Returns:
            R rewards, None where the function does not apply.

        Raises:
            RewardPoolError: nothing can be graded any more.
        """

    def fault(self, task: Task) -> str | None:
        """What is wrong with a task's answer, so that no completion could be right.

        Called for every task before a run starts, so it takes a millisecond at most and no processes.

        Args:
            task: of the pool to be rolled out.

        Returns:
            The fault in words, None if there is none.
        """
        return None

    def close(self) -> None:  # noqa: B027 - most have none
        """Ends processes that wait for work; the next call starts new ones."""
