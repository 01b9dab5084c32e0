"""Tasks that a run could not use, all found before it starts: answers that nothing could match, prompts too long."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tqdm import tqdm

from bots_lightning.rewards import Scorer
from bots_lightning.rollouts import PromptEncoder
from bots_lightning.rollouts.prompts import HELP
from bots_lightning.tasks import Task, TaskPool

Fault = Callable[[Task], str | None]
SHOWN = 5  # tasks in an error message
PATIENCE = 3.0  # seconds after which a bar shows how far a check has come


def check_answers(pools: Mapping[str, TaskPool], scorer: Scorer, quiet: bool = False) -> None:
    """Looks for the columns that reward functions need, and asks the judged ones about every task.

    Args:
        pools: by what errors call them.
        scorer: of the rewards.
        quiet: show no bar.

    Raises:
        ValueError: names the function that needs a column which is not there, or the tasks whose answers no completion
            could match, by file and row.
    """
    for pool in pools.values():
        scorer.check_columns(pool.extra_columns)
    if scorer.judges:
        remedy = "Correct them, or leave them out (of a source: FilteredTasks with bots_lightning.rewards.Gradable)."
        _refuse(pools, scorer.fault, "cannot be graded", remedy, quiet)


def check_prompts(pools: Mapping[str, TaskPool], encoder: PromptEncoder, quiet: bool = False) -> None:
    """Encodes every prompt.

    Args:
        pools: by what errors call them.
        encoder: of the policy.
        quiet: show no bar.

    Raises:
        ValueError: names the tasks whose prompts are too long, by file and row.
    """
    _refuse(pools, lambda task: encoder.fault(task.prompt), "cannot be rolled out", HELP, quiet)


def _refuse(pools: Mapping[str, TaskPool], fault: Fault, what: str, remedy: str, quiet: bool) -> None:
    found: list[str] = []
    for name, pool in pools.items():
        bar = tqdm(pool, f"Tasks of {name!r} that {what}", delay=PATIENCE, disable=quiet, leave=False, unit="task")
        found += [f"{pool.named(row)}: {text}" for row, task in enumerate(bar) if (text := fault(task)) is not None]
    if found:
        tasks, shown = sum(map(len, pools.values())), f", the first {SHOWN}" if len(found) > SHOWN else ""
        listed = "; ".join(text.rstrip(".") for text in found[:SHOWN])
        raise ValueError(f"{len(found)} of {tasks} tasks {what}{shown}: {listed}. {remedy}")
