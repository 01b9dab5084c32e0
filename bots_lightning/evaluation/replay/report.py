"""What a replay has shown: tables for the terminal, JSON for programs, a picture for the rest of us."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from rich.console import Console
from rich.table import Table

from bots_lightning.evaluation.replay.frontier import Curve
from bots_lightning.evaluation.replay.replay import Scores

# Where a label may stand beside its point: offset in points, and the corner of the text that is put there.
LABEL_PLACES = (
    ((7, 5), "left", "bottom"),
    ((7, -5), "left", "top"),
    ((-7, 5), "right", "bottom"),
    ((-7, -5), "right", "top"),
    ((0, 16), "center", "bottom"),
    ((0, -16), "center", "top"),
    ((16, 14), "left", "bottom"),
    ((16, -14), "left", "top"),
    ((-16, 14), "right", "bottom"),
    ((-16, -14), "right", "top"),
    ((-30, 0), "right", "center"),
    ((30, 0), "left", "center"),
    ((20, -30), "left", "top"),
    ((-20, -30), "right", "top"),
)
# Dark enough to be read as text on white, and told apart; with more selectors than these they come round again.
COLORS = (
    "#1f77b4", "#d95f02", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2",
    "#7f7f7f", "#a6a000", "#17a2b8", "#1b3a6b", "#66331a", "#0b5d1e", "#b8007a",
)  # fmt: skip
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


def write_json(
    results: Mapping[str, Scores],
    settings: Mapping[str, Any],
    path: str | Path,
    limits: Mapping[str, Curve] | None = None,
) -> None:
    """Writes {"settings": …, "selectors": {NAME: scores}, "frontiers": …}, null where there is no score."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"settings": dict(settings), "selectors": dict(results), "frontiers": dict(limits or {})}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def print_tables(results: Mapping[str, Scores], title: str) -> None:
    """What was selected, and how well it was foretold: of the tasks selected, and of the whole pool."""
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


def draw_picture(
    results: Mapping[str, Scores], path: str | Path, title: str = "", limits: Mapping[str, Curve] | None = None
) -> None:
    """Saves `picture`; the suffix of the path (png, svg, pdf) tells the format."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(results, title, limits).savefig(path)


def picture(results: Mapping[str, Scores], title: str = "", limits: Mapping[str, Curve] | None = None) -> Figure:
    """Effective task ratio against effective tasks, a labelled point per selector, bars of one deviation over seeds.

    Up and to the right is better: the ratio alone also rises when the same few tasks are revisited.

    Args:
        results: scores by selector.
        title: above the axes.
        limits: frontiers by the knowledge that they take, drawn as lines.
    """
    figure = Figure(figsize=(7, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = {
        name: (scores["effective_tasks"] or 0.0, scores["effective_task_ratio"] or 0.0)
        for name, scores in results.items()
    }
    colors = dict(zip(results, cycle(COLORS), strict=False))
    for name, scores in results.items():
        xerr, yerr = scores["effective_tasks_std"], scores["effective_task_ratio_std"]
        axes.errorbar(*points[name], yerr, xerr, fmt="o", markersize=6, capsize=3, elinewidth=1, color=colors[name])
    _draw_limits(axes, limits or {})
    axes.set_xlabel("effective tasks: exp(entropy of the selection counts)")
    axes.set_ylabel("effective task ratio: share of selected groups that are mixed")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()  # settles the layout that the labels are placed in
    _label_points(axes, points, colors)
    return figure


def _draw_limits(axes: Any, limits: Mapping[str, Curve]) -> None:
    """Settles the axes by the points, then draws the frontiers within them."""
    axes.margins(0.15)
    axes.autoscale_view()
    bounds = axes.axis()
    for (name, curve), style in zip(limits.items(), ("-", "--", ":"), strict=False):
        axes.plot(
            curve["effective_tasks"], curve["effective_task_ratio"], style, color="0.6", lw=1.2, label=name, zorder=0
        )
    if limits:
        axes.axis((bounds[0], bounds[1], bounds[2], max(bounds[3], 1.02)))
        axes.legend(title="frontier", loc="lower left", fontsize="small", title_fontsize="small", frameon=False)


def _label_points(axes: Any, points: Mapping[str, tuple[float, float]], colors: Mapping[str, Any]) -> None:
    """Puts every name beside its point, at the first place that covers no other name or point, else at the last."""
    renderer = axes.figure.canvas.get_renderer()
    centres = {name: axes.transData.transform(point) for name, point in points.items()}
    taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in centres.values()]
    for name, point in points.items():
        label = axes.annotate(name, point, (0, 0), textcoords="offset points", fontsize="small", color=colors[name])
        for offset, horizontal, vertical in LABEL_PLACES:
            label.set(position=offset, ha=horizontal, va=vertical)
            box = label.get_window_extent(renderer)
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
