"""Tasks that a run could not use, all found before it starts: answers that nothing could match, prompts too long."""

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
PATIENCE = 3.0  # seconds after which a bar shows how far a check has come
ENOUGH = 1000  # prompts that are too long, after which no more are looked for
LONGEST = 100_000  # prompts of a pool that are encoded before a run starts; some 10 s for short ones


def check_answers(pools: Mapping[str, TaskPool], scorer: Scorer) -> None:
    """Looks for the columns that reward functions need, and asks graded rewards about every task.

    Args:
        pools: by what errors call them.
        scorer: of the rewards.

    Raises:
        ValueError: names the function that needs a column which is not there, or the tasks whose answers no completion
            could match, by file and row.
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
    """Looks for prompts that cannot be encoded: of a pool's, those that their bytes do not tell to be short enough.

    If these are more than `LONGEST`, only so many with the most characters; the others are checked when they are drawn.

    Args:
        pools: by what errors call them.
        encoder: of the policy.

    Raises:
        ValueError: names the tasks whose prompts are too long, by file and row.
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
    """(N,) those of the chosen prompts (N,) that have the most characters, `LONGEST` at most."""
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
