"""Filters, which remove tasks from a pool. The number of tasks that each removes is logged."""

# Shapes: N tasks in the pool.

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bots_lightning.tasks.lengths import LengthCheck, picked
from bots_lightning.tasks.pool import TaskPool
from bots_lightning.tasks.prompts import characters, prompt_tokens
from bots_lightning.tasks.source import TaskSource

log = logging.getLogger(__name__)

BoolArray = npt.NDArray[np.bool_]


class TaskFilter(ABC):
    """Decides which tasks are kept. Subclasses implement `keeps`; their repr appears in the log."""

    @abstractmethod
    def keeps(self, pool: TaskPool) -> BoolArray:
        """Whether each task of a pool is kept, (N,)."""


@dataclass(frozen=True)
class PromptCharacters(TaskFilter):
    """Keeps prompts of at most `maximum` characters.

    Attributes:
        maximum: characters, summed over all messages.
    """

    maximum: int

    def keeps(self, pool: TaskPool) -> BoolArray:
        """Whether each prompt is short enough, (N,)."""
        return characters(pool.table["prompt"]) <= self.maximum


@dataclass(frozen=True)
class PromptTokens(TaskFilter):
    """Keeps prompts of at most `maximum` tokens, including those of the chat template.

    Attributes:
        maximum: tokens; the policy's `max_prompt_length`.
        tokenizer: a checkpoint folder or a Hub name; that of the policy.
    """

    maximum: int
    tokenizer: str

    def keeps(self, pool: TaskPool) -> BoolArray:
        """Whether each prompt is short enough, (N,)."""
        from transformers import AutoTokenizer

        tokenizer, prompts = AutoTokenizer.from_pretrained(self.tokenizer), pool.table["prompt"]
        check = LengthCheck(tokenizer, self.maximum)
        doubtful = check.doubtful(prompts)
        kept = ~doubtful
        for rows, batch in picked(prompts, doubtful):
            unsure = check.still_doubtful(batch)
            kept[rows[~unsure]] = True
            counts = [len(prompt_tokens(tokenizer, batch[at])) for at in np.flatnonzero(unsure)]
            kept[rows[unsure]] = np.array(counts) <= self.maximum
        return kept


@dataclass(frozen=True)
class Groups(TaskFilter):
    """Keeps the tasks of some groups.

    Attributes:
        keep: their names; "" is the name for tasks without a group.
    """

    keep: list[str]

    def keeps(self, pool: TaskPool) -> BoolArray:
        """Whether each task belongs to one of the groups, (N,).

        Raises:
            ValueError: the pool has no such group.
        """
        groups = pool.groups if len(pool.groups) else np.full(len(pool), "")
        unknown = sorted(set(self.keep) - set(groups.tolist()))
        if unknown:
            raise ValueError(
                f"no task has the groups {unknown}; there are {np.unique(groups).tolist()}. Correct the filter's "
                "`keep`, or set the source's `group_column`."
            )
        return np.isin(groups, self.keep)


@dataclass(frozen=True)
class PassRates(TaskFilter):
    """Keeps the tasks whose reference pass rate lies within a range.

    Attributes:
        reference: name of the reference column.
        low: smallest pass rate that is kept.
        high: largest pass rate that is kept.
        keep_unknown: whether tasks without a pass rate are kept.

    Raises:
        ValueError: the range is empty or not within [0, 1].
    """

    reference: str
    low: float = 0.0
    high: float = 1.0
    keep_unknown: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low={self.low}, high={self.high}; expected 0 ≤ low ≤ high ≤ 1.")

    def keeps(self, pool: TaskPool) -> BoolArray:
        """Whether each pass rate lies within the range, ends included, (N,).

        Raises:
            ValueError: the pool has no column `reference`.
        """
        rates = pool.features().reference(self.reference)
        return np.where(np.isnan(rates), self.keep_unknown, (rates >= self.low) & (rates <= self.high))


class FilteredTasks(TaskSource):
    """The tasks of a source that all filters keep.

    Args:
        source: of the tasks.
        filters: applied in this order, each to the tasks that those before it kept.
    """

    def __init__(self, source: TaskSource, filters: list[TaskFilter]) -> None:
        self.source = source
        self.filters = filters

    def load(self) -> TaskPool:
        """Loads the source and logs how many tasks each filter removed.

        Raises:
            ValueError: no task is left.
        """
        pool = self.source.load()
        report = f"{pool.name or 'the pool'}: {len(pool)} tasks"
        for task_filter in self.filters:
            kept = task_filter.keeps(pool)
            report += f"; {task_filter} removed {np.count_nonzero(~kept)}"
            if not kept.any():
                raise ValueError(f"{report}; none is left. Relax the filters.")
            pool = pool if kept.all() else pool.where(kept)
        log.info("%s; %d remain", report, len(pool))
        return pool
