"""Reward functions that judge each completion outside of this process, under a time limit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bots_lightning.tasks import Task


class RewardPoolError(RuntimeError):
    """No process is left that could judge, and new ones end at once: the machine's doing, not the completions'."""


@dataclass(frozen=True)
class Outcomes:
    """How the items of one call were judged.

    Attributes:
        items: completions that were judged.
        timeouts: those that took too long and were scored 0.
        errors: those that the judge itself failed at and scored 0.
    """

    items: int = 0
    timeouts: int = 0
    errors: int = 0

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.items + other.items, self.timeouts + other.timeouts, self.errors + other.errors)

    def fractions(self) -> dict[str, float]:
        """Shares of the items, as metrics; none where nothing was judged."""
        if not self.items:
            return {}
        return {"rewards/timeout_frac": self.timeouts / self.items, "rewards/error_frac": self.errors / self.items}


class JudgedReward(ABC):
    """A reward function, in TRL's signature, that counts what it could not judge.

    In training it is called on another thread than the main one, several times a step, each time with all completions
    of some tasks of the batch: as many as have ended by then (see `RewardStream`). So each completion must be judged by
    itself, without regard to those beside it, and without what only the main thread may do, such as setting signal
    handlers. A call whose batch was given up may still be at work when the next begins: calls that share anything, such
    as processes, must take turns.

    Attributes:
        outcomes: of the last call; a run logs the shares as `rewards/timeout_frac` and `rewards/error_frac`.
    """

    def __init__(self) -> None:
        self.outcomes = Outcomes()

    @abstractmethod
    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Rewards of R completions, and their `outcomes`.

        Raises:
            RewardPoolError: nothing can be judged any more.
        """

    def fault(self, task: Task) -> str | None:
        """What is wrong with a task's answer, so that no completion could be right; None if nothing is.

        Every task is asked about before a run starts: a millisecond at most, without processes.

        Args:
            task: of the pool to be rolled out.
        """
        return None

    def close(self) -> None:  # noqa: B027 - most have none
        """Ends processes that wait for work; the next call starts new ones."""
