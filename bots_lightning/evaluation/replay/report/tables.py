"""The tables of a replay for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from bots_lightning.evaluation.replay.forecasts import Scores

# Column header -> score, digits after the point, whether to add the deviation over seeds.
SELECTION_COLUMNS = {
    "ETR": ("effective_task_ratio", 3, True),
    "first\n25 %": ("first_quarter", 2, False),
    "last\n25 %": ("last_quarter", 2, False),
    "effective\ntasks": ("effective_tasks", 0, True),
    "tasks\nused": ("distinct_tasks", 0, False),
    "max\nreuse": ("largest_reuse", 0, False),
}
BELIEF_COLUMNS = {
    "RMSE": ("rmse", 3, False),
    "log p": ("log_predictive", 2, False),
    "rank\ncorr.": ("spearman", 2, False),
    "in\n90 %": ("coverage_90", 2, False),
    "pool\nRMSE": ("rmse_all", 3, False),
    "pool\nlog p": ("log_predictive_all", 2, False),
    "pool\n90 %": ("coverage_90_all", 2, False),
}


def print_tables(results: Mapping[str, Scores], title: str) -> None:
    """Prints what was selected, and how well it was predicted, for the selected tasks and for the entire pool."""
    console = Console()
    console.print()
    console.print(_table(results, title, SELECTION_COLUMNS))
    if any(scores["rmse"] is not None for scores in results.values()):
        console.print()
        heading = "Beliefs before they saw the counts (pool: once per epoch)"
        console.print(_table(results, heading, BELIEF_COLUMNS))


def _table(results: Mapping[str, Scores], title: str, columns: Mapping[str, tuple[str, int, bool]]) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("selector", no_wrap=True)
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for name, scores in results.items():
        table.add_row(name, *(_shown(scores, *column) for column in columns.values()))
    return table


def _shown(scores: Scores, name: str, digits: int, with_deviation: bool) -> str:
    value, deviation = scores[name], scores[f"{name}_std"]
    if value is None:
        return "–"
    spread = f" ±{deviation:.{digits}f}" if with_deviation and deviation is not None else ""
    return f"{value:.{digits}f}{spread}"
