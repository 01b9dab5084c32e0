"""The tables of a comparison for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bots_lightning.evaluation.comparison.report.texts import (
    Result,
    deviation_text,
    interval_text,
    number_text,
    ratio_text,
    seeds_text,
)
from bots_lightning.evaluation.comparison.report.verdicts import notes, verdict

# Metric -> its label and the format of its value.
MEASURES = {
    "effective_task_ratio": ("effective task ratio", ".3f"),
    "mixed_per_1000_rollouts": ("mixed groups per 1,000 rollouts", ".1f"),
    "effective_tasks": ("effective tasks", ",.0f"),
    "distinct_tasks": ("tasks seen", ",.0f"),
    "forgetting": ("forgetting", ".3f"),
}


def print_tables(result: Result) -> None:
    """Prints tables of each method and of its comparison with the baseline, verdicts, notes and warnings."""
    console, baseline = Console(highlight=False, markup=False), result["settings"]["baseline"]
    tables = [_score_table(result), _selection_table(result), _cost_table(result)]
    for name, comparison in result["comparisons"].items():
        tables += _against_baseline(name, baseline, comparison)
    for title, table in tables:
        console.print(f"\n{title}", style="italic")
        console.print(table)
    console.print()
    for name, comparison in result["comparisons"].items():
        console.print(verdict(name, baseline, comparison))
    for line in (*notes(result), *(f"Warning: {warning}" for warning in result["warnings"])):
        console.print(line)


def _score_table(result: Result) -> tuple[str, Table]:
    table = _table("method", "seeds", "final score", f"− {result['settings']['baseline']}", "95 % interval")
    for name, method in result["methods"].items():
        difference = (result["comparisons"].get(name) or {}).get("final_score_difference") or {}
        shown = number_text(difference.get("mean"), "+.3f"), interval_text(difference.get("interval"), "+.3f")
        table.add_row(Text(name), str(len(method["seeds"])), deviation_text(method["final_score"], ".3f"), *shown)
    return "Scores", table


def _selection_table(result: Result) -> tuple[str, Table]:
    columns = ("ETR", "mixed per\n1,000", "effective\ntasks", "tasks\nseen", "forgetting", "overhead")
    table = _table("method", *columns)
    for name, method in result["methods"].items():
        shown = {metric: number_text(method[metric]["mean"], digits) for metric, (_, digits) in MEASURES.items()}
        shown["effective_tasks"] = deviation_text(method["effective_tasks"], ",.0f")
        table.add_row(Text(name), *shown.values(), number_text(method["selection_overhead_fraction"]["mean"], ".2%"))
    return (
        "Selection: effective task ratio (ETR), mixed groups per 1,000 rollouts, diversity, what was forgotten",
        table,
    )


def _cost_table(result: Result) -> tuple[str, Table]:
    table = _table("method", "rollouts", "tokens", "seconds")
    for name, method in result["methods"].items():
        means = [number_text(method[key]["mean"], ",.0f") for key in ("rollouts", "generated_tokens", "wall_seconds")]
        table.add_row(Text(name), *means)
    return "Spent per run; seconds with evaluations", table


def _against_baseline(name: str, baseline: str, comparison: Result) -> Iterator[tuple[str, Table]]:
    """TTB and BSF of the mean curves with intervals; TTB seed by seed."""
    if not comparison["seeds"]:
        return
    methods, seeds = f"{name} / {baseline}", seeds_text(comparison)
    faster, better = comparison["time_to_baseline"], comparison["best_so_far"]
    yield f"Selection {name} − {baseline}, mean of {seeds}, 95 % interval", _differences(comparison)
    yield f"TTB {methods}, mean of {seeds}, 95 % interval; < 1 is faster", _by_axis(faster, _pooled)
    yield f"BSF {methods}, mean of {seeds}, 95 % interval; > 1 is better", _by_axis(better, _pooled)
    yield f"TTB {methods}, seed by seed: median, and how many reached it", _by_axis(faster, _median)


def _differences(comparison: Result) -> Table:
    table = _table("", "difference", "95 % interval")
    for metric, (label, digits) in MEASURES.items():
        difference = comparison["selection_differences"][metric]
        signed = f"+{digits}"
        shown = number_text(difference["mean"], signed), interval_text(difference["interval"], signed)
        table.add_row(label, *shown)
    return table


def _by_axis(axes: Result, shown: Callable[[Result], str]) -> Table:
    table = _table("by", *(f"{budget} %" for budget in next(iter(axes.values()))))
    for axis, cells in axes.items():
        table.add_row(axis, *(shown(cell) for cell in cells.values()))
    return table


def _table(first: str, *columns: str) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(Text(column), justify="right", no_wrap=True)
    return table


def _pooled(cell: Result) -> str:
    return ratio_text(cell["pooled"])


def _median(cell: Result) -> str:
    seeds = cell["seeds"]
    return f"{ratio_text(seeds['median'])} {seeds['reached']}/{seeds['with_target']}" if seeds["with_target"] else "–"
