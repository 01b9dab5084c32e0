"""The learning curves of a comparison as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from bots_lightning.evaluation.comparison.report.texts import Result, seeds_text

# Okabe and Ito's colours, distinct for the colour-blind; black is the baseline's.
BASELINE_COLOR = "#000000"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", ":")  # for more methods than colours


def draw_picture(result: Result, path: str | Path) -> None:
    """Saves `picture`.

    Args:
        result: of a comparison.
        path: of the file; its suffix (png, svg, pdf) is the format, and its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(result).savefig(path)


def picture(result: Result) -> Figure:
    """Draws score and effective task ratio over rollouts: a line per method, the mean over its seeds."""
    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    scores, ratios = figure.subplots(1, 2)
    for name, style in _styles(list(result["methods"]), result["settings"]["baseline"]).items():
        method = result["methods"][name]
        _draw_scores(scores, method, f"{name} ({seeds_text(method, 'seed')})", style)
        _draw_ratios(ratios, method, style)
    steps = max(len(method["effective_task_ratio_curve"]["mean"]) for method in result["methods"].values())
    scores.set_ylabel(f"score: mean of {', '.join(result['settings']['score'])}")
    ratios.set_ylabel(f"effective task ratio, running mean over {_window(steps)} steps")
    bands = any(all(method["score_curve"]["interval"]) for method in result["methods"].values())
    scores.set_title(f"mean over seeds{'; band: its bootstrap 95 % interval' if bands else ''}", fontsize="medium")
    scores.legend(fontsize="small")
    for axes in (scores, ratios):
        axes.set_xlabel("rollouts")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
    return figure


def _styles(names: list[str], baseline: str) -> dict[str, dict[str, Any]]:
    others = [name for name in names if name != baseline]
    styles = {baseline: {"color": BASELINE_COLOR, "linestyle": "-"}}
    for i, name in enumerate(others):
        styles[name] = {"color": COLORS[i % len(COLORS)], "linestyle": LINES[i // len(COLORS) % len(LINES)]}
    return styles


def _draw_scores(axes: Axes, method: Result, label: str, style: dict[str, Any]) -> None:
    curve = method["score_curve"]
    axes.plot(curve["rollouts"], curve["mean"], label=label, marker="o", markersize=3, **style)
    if all(curve["interval"]):
        low, high = zip(*curve["interval"], strict=True)
        axes.fill_between(curve["rollouts"], low, high, color=style["color"], alpha=0.15, linewidth=0)


def _draw_ratios(axes: Axes, method: Result, style: dict[str, Any]) -> None:
    curve = method["effective_task_ratio_curve"]
    axes.plot(curve["rollouts"], running_mean(curve["mean"], _window(len(curve["mean"]))), **style)


def _window(steps: int) -> int:
    """Steps of the running mean."""
    return max(1, steps // 15)


def running_mean(values: list[float], window: int) -> list[float]:
    """The mean over a window around each value, shorter at both ends."""
    if not values:
        return []
    kernel = np.ones(window)
    return (np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")).tolist()
