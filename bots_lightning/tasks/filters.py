"""Which tasks of a source stay in the pool. What each filter removed is logged; none removes silently."""

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
    """Decides task by task. To write one, implement `keeps`; its repr stands in the report."""

    @abstractmethod
    def keeps(self, pool: TaskPool) -> BoolArray:
        """(N,) whether each task stays."""


@dataclass(frozen=True)
class PromptCharacters(TaskFilter):
    """Keeps prompts of at most `maximum` characters, of all messages together."""

    maximum: int

    def keeps(self, pool: TaskPool) -> BoolArray:
        """(N,) whether each prompt is short enough."""
        return characters(pool.table["prompt"]) <= self.maximum


@dataclass(frozen=True)
class PromptTokens(TaskFilter):
    """Keeps prompts of at most `maximum` tokens, counted as the policy sees them, chat template included.

    Attributes:
        maximum: of tokens; the policy's `max_prompt_length`.
        tokenizer: a checkpoint folder or a Hub name; that of the policy.
    """

    maximum: int
    tokenizer: str

    def keeps(self, pool: TaskPool) -> BoolArray:
        """(N,) whether each prompt is short enough."""
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
        keep: their names; "" is that of tasks without a group.
    """

    keep: list[str]

    def keeps(self, pool: TaskPool) -> BoolArray:
        """(N,) whether each task is of one of the groups.

        Raises:
            ValueError: the pool has no such group.
        """
        groups = pool.groups if len(pool.groups) else np.full(len(pool), "")
        unknown = sorted(set(self.keep) - set(groups.tolist()))
        if unknown:
            raise ValueError(
                f"no task is of the groups {unknown}; there are {np.unique(groups).tolist()}. Correct the filter's "
                "`keep`, or set the source's `group_column`."
            )
        return np.isin(groups, self.keep)


@dataclass(frozen=True)
class PassRates(TaskFilter):
    """Keeps the tasks that a reference model solves neither too seldom nor too often.

    Attributes:
        reference: name of the reference column.
        low: smallest pass rate that stays.
        high: largest pass rate that stays.
        keep_unknown: whether tasks stay whose pass rate is not known.
    """

    reference: str
    low: float = 0.0
    high: float = 1.0
    keep_unknown: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low={self.low}, high={self.high}; expected 0 ≤ low ≤ high ≤ 1.")

    def keeps(self, pool: TaskPool) -> BoolArray:
        """(N,) whether each pass rate lies in the band, ends included."""
        rates = pool.features().reference(self.reference)
        return np.where(np.isnan(rates), self.keep_unknown, (rates >= self.low) & (rates <= self.high))


class FilteredTasks(TaskSource):
    """The tasks of a source that all filters keep.

    Args:
        source: the tasks.
        filters: asked in this order, each of what those before it kept.
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
                raise ValueError(f"{report}; none is left. Loosen the filters.")
            pool = pool if kept.all() else pool.where(kept)
        log.info("%s; %d remain", report, len(pool))
        return pool
