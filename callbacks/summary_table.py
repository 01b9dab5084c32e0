"""The table of a run's summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(summary: dict[str, Any], folder: Path) -> None:
    """Prints the table at the end of a run.

    Args:
        summary: as of `RunSummary.summarize`.
        folder: of the run.
    """
    title = f"{folder.name}: {summary['iterations']} iterations in {summary['wall_seconds']:.0f} s"
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    evaluation = summary["evaluation"]
    before, after = (evaluation[when]["scores"] if evaluation[when] else {} for when in ("before", "after"))
    for name in before | after:
        table.add_row(name.removeprefix("eval/"), *_before_after(before.get(name), after.get(name)))
    console = Console()
    console.print()
    console.print(table)
    for label, fact in _facts(summary, folder).items():
        if fact is not None:
            console.print(f"{label:<28}{fact}", highlight=False)


def _facts(summary: dict[str, Any], folder: Path) -> dict[str, str | None]:
    """The lines below the table, by their labels; None for what the run does not have."""
    ratio, overhead = summary["effective_task_ratio"], summary["selection_overhead_fraction"]
    mixed, seen = summary["mixed_per_1000_rollouts"], summary["seen_fraction"]
    return {
        "selector": summary["selector"],
        "effective task ratio": "–" if ratio is None else f"{ratio:.3f}{_by_group(summary)}",
        "mixed groups": None if mixed is None else f"{mixed:.1f} per 1,000 rollouts",
        "tasks seen / effective": f"{summary['distinct_tasks']:,} / {summary['effective_tasks']:,.0f} "
        f"of {summary['pool_tasks']:,} ({seen:.1%} seen)",
        "rollouts / tokens": f"{summary['rollouts']:,} / {summary['generated_tokens']:,}",
        "selection overhead": "–" if overhead is None else f"{100 * overhead:.3f} %",
        "belief": _belief_facts(summary.get("belief")),
        **_step_facts(summary),
        "files": str(folder),
    }


def _step_facts(summary: dict[str, Any]) -> dict[str, str]:
    """Seconds of a mean step, and of its phases with their shares; those below a thousandth are left out.

    Tokens per second are shown of rolling out, and of the whole step, of which that may be a small share.
    """
    seconds, ahead = summary["timing_s"], summary["rollout_ahead_s"]
    speeds = {"step": summary["tokens_per_second"], "rollout": summary["rollout_tokens_per_second"]}
    if speeds["step"] is None:
        return {}
    whole = sum(seconds.values())
    rates = {phase: f"  {_digits(speed)} tokens/s" for phase, speed in speeds.items() if speed is not None}
    shown = {phase: value for phase, value in seconds.items() if value >= whole / 1000}
    facts = {"step": f"{whole:8.3f} s        {rates['step']}, all phases"}
    facts |= {
        f"  {phase}": f"{value:8.3f} s {100 * value / whole:5.1f} %{rates.get(phase, '')}"
        for phase, value in shown.items()
    }
    return facts | ({"  rollout, asynchronous": f"{ahead:8.3f} s"} if ahead else {})


def _digits(speed: float) -> str:
    """Whole numbers from 100 on, else three digits."""
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


def _by_group(summary: dict[str, Any], most: int = 6) -> str:
    """The ratio of each group in brackets, of the first few by name; empty if there is one group only."""
    ratios = summary.get("effective_task_ratio_by_group") or {}
    if len(ratios) < 2:
        return ""
    shown = [f"{group} {ratio:.2f}" for group, ratio in list(ratios.items())[:most]]
    return f" ({', '.join(shown)}{', …' if len(ratios) > most else ''})"


def _belief_facts(means: dict[str, float] | None) -> str | None:
    """The quality of the belief on one line; None without a belief."""
    if means is None:
        return None
    errors = f"RMSE {means['rmse']:.3f}, log p {means['log_predictive']:.2f}"
    return f"{errors}, {means['coverage_90']:.0%} in 90 % intervals"


def _before_after(before: float | None, after: float | None) -> tuple[str, str, str]:
    """Two scores and their difference, a dash where one is missing."""
    if before is None or after is None:
        shown = ["–" if value is None else f"{value:.3f}" for value in (before, after)]
        return shown[0], shown[1], "–"
    return f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"
