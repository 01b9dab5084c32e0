"""What a comparison has shown: tables and a verdict for the terminal, JSON for programs, a picture for the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Okabe and Ito's colours, told apart by the colour-blind; black is the baseline's.
BASELINE_COLOR = "#000000"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", ":")  # for more methods than colours
# Without a true difference, n seeds all fall on the same side with probability 2^(1 - n): 0.06 of five, 0.25 of three.
SEEDS_FOR_A_VERDICT = 5
Result = Mapping[str, Any]


def write_json(result: Result, path: str | Path) -> None:
    """Writes the result; null where there is no figure, and at the end of an interval that has none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def print_tables(result: Result) -> None:
    """The methods by themselves, each against the baseline, a verdict, and what to mind."""
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


def verdict(name: str, baseline: str, comparison: Result) -> str:
    """One sentence on speed, one on the final score; better or worse only if the seeds can tell."""
    if not comparison["seeds"]:
        return f"{name}: no seed in common with {baseline}, so no verdict."
    enough = len(comparison["seeds"]) >= SEEDS_FOR_A_VERDICT
    speed, final = comparison["time_to_baseline"]["rollouts"]["100"]["pooled"], comparison["final_score_difference"]
    told = {
        f"rollouts to {baseline}'s best score {_ratio(speed)}": _judged(speed["interval"], 1, ("faster", "slower")),
        f"final score {_signed(final['mean'], final['interval'])}": _judged(final["interval"], 0, ("worse", "better")),
    }
    if speed["resamples_without_target"] > 0.025:  # what an end of the interval leaves out
        told[next(iter(told))] = "not shown to differ"
    sentences = "; ".join(f"{figure}: {word}" if enough else figure for figure, word in told.items())
    doubt = "" if enough else f"; {_seeds(comparison)}, too few for a verdict"
    return f"{name} against {baseline}: {sentences}{doubt}."


def notes(result: Result) -> Iterator[str]:
    """How to read the tables: only what this result gives reason to say."""
    settings, comparisons = result["settings"], result["comparisons"].values()
    first, last = settings["iterations"][0], settings["iterations"][-1]
    yield (
        f"Score: mean of {', '.join(settings['score'])}; {len(settings['iterations'])} evaluations, at iterations "
        f"{first} to {last}{', interpolated' if settings['interpolate'] else ''}. ±: standard deviation over seeds."
    )
    cells = [cell for item in comparisons for axis in item["time_to_baseline"].values() for cell in axis.values()]
    if any(
        cell["pooled"]["at_least"] is not None or cell["seeds"]["reached"] < cell["seeds"]["with_target"]
        for cell in cells
    ):
        yield "≥: never reached within the run; what the ratio would at least be. ∞: not reached in such a resample."
    if any(cell["pooled"]["value"] is None and cell["pooled"]["at_least"] is None for cell in cells):
        yield "–: no ratio, as the baseline's best until there is its score before training."
    share = max((cell["pooled"]["resamples_without_target"] for cell in cells if cell["pooled"]["interval"]), default=0)
    if share:
        yield f"Intervals leave out resamples in which the baseline had not improved, up to {100 * share:.0f} %."
    if len(comparisons) > 1:
        yield f"Each interval is for one comparison by itself; of {len(comparisons)}, one may err more easily."
    if any(1 < len(method["seeds"]) < SEEDS_FOR_A_VERDICT for method in result["methods"].values()):
        yield f"Intervals from fewer than {SEEDS_FOR_A_VERDICT} seeds are too narrow: they know only these seeds."


def _judged(interval: list[float | None] | None, even: float, words: tuple[str, str]) -> str:
    """The first word if the whole interval lies below the even value, the second if above."""
    low, high = (np.inf if end is None else end for end in interval or (-np.inf, np.inf))
    below, above = words
    return below if high < even else above if low > even else "not shown to differ"


def _score_table(result: Result) -> tuple[str, Table]:
    table = _table("method", "seeds", "final score", f"− {result['settings']['baseline']}", "95 % interval")
    for name, method in result["methods"].items():
        difference = (result["comparisons"].get(name) or {}).get("final_score_difference") or {}
        shown = _number(difference.get("mean"), "+.3f"), _interval(difference.get("interval"), "+.3f")
        table.add_row(Text(name), str(len(method["seeds"])), _with_deviation(method["final_score"], ".3f"), *shown)
    return "Scores", table


def _selection_table(result: Result) -> tuple[str, Table]:
    table = _table("method", "ETR", "95 % interval", "effective\ntasks", "tasks\nused", "overhead")
    for name, method in result["methods"].items():
        ratio, effective, used = (method[key] for key in ("effective_task_ratio", "effective_tasks", "distinct_tasks"))
        overhead = _number(method["selection_overhead_fraction"]["mean"], ".2%")
        tasks = _with_deviation(effective, ",.0f"), _number(used["mean"], ",.0f")
        table.add_row(Text(name), _number(ratio["mean"], ".3f"), _interval(ratio["interval"], ".3f"), *tasks, overhead)
    return "Selection: effective task ratio (ETR), diversity, share of the step's time", table


def _cost_table(result: Result) -> tuple[str, Table]:
    table = _table("method", "rollouts", "tokens", "seconds")
    for name, method in result["methods"].items():
        means = [_number(method[key]["mean"], ",.0f") for key in ("rollouts", "generated_tokens", "wall_seconds")]
        table.add_row(Text(name), *means)
    return "Spent per run; seconds with evaluations", table


def _against_baseline(name: str, baseline: str, comparison: Result) -> Iterator[tuple[str, Table]]:
    """TTB and BSF of the mean curves with intervals; TTB seed by seed."""
    if not comparison["seeds"]:
        return
    who, seeds = f"{name} / {baseline}", _seeds(comparison)
    faster, better = comparison["time_to_baseline"], comparison["best_so_far"]
    yield f"TTB {who}, mean of {seeds}, 95 % interval; < 1 is faster", _by_axis(faster, _pooled)
    yield f"BSF {who}, mean of {seeds}, 95 % interval; > 1 is better", _by_axis(better, _pooled)
    yield f"TTB {who}, seed by seed: median, and how many reached it", _by_axis(faster, _median)


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


def _seeds(described: Result, kind: str = "paired seed") -> str:
    count = len(described["seeds"])
    return f"{count} {kind}{'s' if count != 1 else ''}"


def _pooled(cell: Result) -> str:
    return _ratio(cell["pooled"])


def _median(cell: Result) -> str:
    seeds = cell["seeds"]
    return f"{_ratio(seeds['median'])} {seeds['reached']}/{seeds['with_target']}" if seeds["with_target"] else "–"


def _ratio(cell: Result) -> str:
    """Value and interval; `≥` and the bound where the value was not reached."""
    bound = cell.get("at_least")
    value = f"≥{bound:.2f}" if bound is not None else _number(cell["value"], ".2f")
    return f"{value} {_interval(cell['interval'], '.2f')}" if cell.get("interval") and value != "–" else value


def _interval(ends: list[float | None] | None, digits: str) -> str:
    return (
        "–" if ends is None else f"{' to ' if '+' in digits else '–'}".join(_number(end, digits, "∞") for end in ends)
    )


def _signed(value: float | None, ends: list[float | None] | None) -> str:
    return _number(value, "+.3f") + (f" ({_interval(ends, '+.3f')})" if ends else "")


def _with_deviation(figure: Result, digits: str) -> str:
    spread = "" if figure["std"] is None else f" ±{figure['std']:{digits}}"
    return _number(figure["mean"], digits) + spread


def _number(value: float | None, digits: str, nothing: str = "–") -> str:
    return nothing if value is None else f"{value:{digits}}"


def draw_picture(result: Result, path: str | Path) -> None:
    """Saves `picture`; the suffix of the path (png, svg, pdf) tells the format."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(result).savefig(path)


def picture(result: Result) -> Figure:
    """Score and effective task ratio over rollouts: a line per method, the mean over its seeds."""
    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    scores, ratios = figure.subplots(1, 2)
    for name, style in _styles(list(result["methods"]), result["settings"]["baseline"]).items():
        method = result["methods"][name]
        _draw_scores(scores, method, f"{name} ({_seeds(method, 'seed')})", style)
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
    return max(1, steps // 15)


def running_mean(values: list[float], window: int) -> list[float]:
    """The mean over a window around each value, shorter at both ends."""
    if not values:
        return []
    kernel = np.ones(window)
    return (np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")).tolist()
