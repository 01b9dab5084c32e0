"""The trade-off between ratio and diversity of a replay as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from bots_lightning.evaluation.replay.forecasts import Scores
from bots_lightning.evaluation.replay.frontier import Curve

# Places of a label beside its point: offset in points, and the corner of the text that is put there.
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
# Dark enough to be read as text on white, and distinct; they repeat for more selectors than these.
COLORS = (
    "#1f77b4", "#d95f02", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2",
    "#7f7f7f", "#a6a000", "#17a2b8", "#1b3a6b", "#66331a", "#0b5d1e", "#b8007a",
)  # fmt: skip


def draw_picture(
    results: Mapping[str, Scores], path: str | Path, title: str = "", limits: Mapping[str, Curve] | None = None
) -> None:
    """Saves `picture`; the suffix of the path (png, svg, pdf) is the format."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(results, title, limits).savefig(path)


def picture(results: Mapping[str, Scores], title: str = "", limits: Mapping[str, Curve] | None = None) -> Figure:
    """Draws effective task ratio against effective tasks: a point per selector, bars of one deviation over seeds.

    Up and to the right is better: the ratio alone also rises when the same few tasks are revisited.

    Args:
        results: scores by selector.
        title: above the axes.
        limits: frontiers by the knowledge that they need, drawn as lines.
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
    figure.draw_without_rendering()  # fixes the layout in which labels are placed
    _label_points(axes, points, colors)
    return figure


def _draw_limits(axes: Any, limits: Mapping[str, Curve]) -> None:
    """Fixes the axes by the points, then draws the frontiers within them."""
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
    """Writes every name beside its point, at the first place that covers no other name or point, else at the last."""
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
