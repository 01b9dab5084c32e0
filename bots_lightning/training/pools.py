"""Checks of all tasks before a run starts: answers that no completion could match, prompts that are too long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import TemplateError
from tqdm import tqdm

from bots_lightning.rewards import Scorer
from bots_lightning.rollouts import PromptEncoder
from bots_lightning.rollouts.prompts import HELP
from bots_lightning.tasks import TaskPool
from bots_lightning.tasks.lengths import BoolArray, LengthCheck, picked
from bots_lightning.tasks.pool import Prompt
from bots_lightning.tasks.prompts import characters

SHOWN = 5  # tasks in an error message
PATIENCE = 3.0  # seconds after which a progress bar appears
ENOUGH = 1000  # faulty prompts after which the check ends
LONGEST = 100_000  # prompts of a pool that are encoded before a run starts; some 10 s for short ones


def check_answers(pools: Mapping[str, TaskPool], scorer: Scorer) -> None:
    """Checks that pools have the columns that reward functions need, and answers that their graders can read.

    Args:
        pools: by their names in error messages.
        scorer: with the reward functions.

    Raises:
        ValueError: a column is missing, which is named with its function; or answers are such that no completion could
            match them, which are named with file and row.
    """
    for pool in pools.values():
        scorer.check_columns(pool.extra_columns)
    if scorer.graders:
        found: list[str] = []
        for name, pool in pools.items():
            bar = _bar(name, "cannot be graded", iterable=pool)
            faults = ((row, scorer.fault(task)) for row, task in enumerate(bar))
            found += [f"{pool.named(row)}: {fault}" for row, fault in faults if fault is not None]
        remedy = "Correct them, or leave them out (of a source: FilteredTasks with bots_lightning.rewards.Gradable)."
        _refuse(found, pools, "cannot be graded", remedy)


def check_prompts(pools: Mapping[str, TaskPool], encoder: PromptEncoder) -> None:
    """Checks that prompts can be encoded and are short enough.

    Only prompts that may be too long by their number of bytes are encoded. Of more than `LONGEST` of those, the ones
    with the most characters are; the others are checked when they are drawn.

    Args:
        pools: by their names in error messages.
        encoder: of the policy.

    Raises:
        ValueError: prompts are too long, or the chat template refuses them; they are named with file and row.
    """
    check = LengthCheck(encoder.tokenizer, math.inf if encoder.truncate else encoder.most)
    found: list[str] = []
    for name, pool in pools.items():
        prompts = pool.table["prompt"]
        doubtful = _longest(prompts, check.doubtful(prompts))
        with _bar(name, "cannot be rolled out", total=np.count_nonzero(doubtful)) as bar:
            for rows, batch in picked(prompts, doubtful):
                unsure = np.flatnonzero(check.still_doubtful(batch)).tolist()
                faults = ((int(rows[at]), _prompt_fault(encoder, batch[at])) for at in unsure)
                found += [f"{pool.named(row)}: {fault}" for row, fault in faults if fault is not None]
                bar.update(len(rows))
                if len(found) >= ENOUGH:
                    _refuse(found, pools, "cannot be rolled out", HELP, at_least=True)
    _refuse(found, pools, "cannot be rolled out", HELP)


def _prompt_fault(encoder: PromptEncoder, prompt: Prompt) -> str | None:
    try:
        return encoder.fault(prompt)
    except TemplateError as error:
        return f"the tokenizer's chat template refuses the prompt ({error})"


def _longest(prompts: pa.ChunkedArray, chosen: BoolArray) -> BoolArray:
    """(N,) bool, at most `LONGEST` of the chosen prompts (N,), those with the most characters."""
    rows = np.flatnonzero(chosen)
    if len(rows) <= LONGEST:
        return chosen
    longest = np.zeros(len(chosen), dtype=np.bool_)
    longest[rows[np.argpartition(-characters(prompts)[rows], LONGEST)[:LONGEST]]] = True
    return longest


def _bar(name: str, what: str, **options: Any) -> tqdm:
    return tqdm(desc=f"Tasks of {name!r} that {what}", delay=PATIENCE, leave=False, unit="task", **options)


def _refuse(
    found: Sequence[str], pools: Mapping[str, TaskPool], what: str, remedy: str, at_least: bool = False
) -> None:
    if found:
        tasks, shown = sum(map(len, pools.values())), f", the first {SHOWN}" if len(found) > SHOWN else ""
        listed = "; ".join(text.rstrip(".") for text in found[:SHOWN])
        least = "at least " if at_least else ""
        raise ValueError(f"{least}{len(found)} of {tasks} tasks {what}{shown}: {listed}. {remedy}")
