"""Summaries of a table of pass rates: text for the terminal, and a picture."""

# Shapes: N tasks in the table, M of them with a known pass rate.

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BINS = 10
ROUNDING = 1e-9  # so that 3/10 lies in [0.3, 0.4)
BAR = 40  # characters of the longest


def histogram(rates: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(10,) number of tasks by pass rate: [0, 0.1), [0.1, 0.2), … and [0.9, 1].

    Args:
        rates: (M,) in [0, 1].
    """
    bins = np.minimum((rates * BINS + ROUNDING).astype(np.int64), BINS - 1)
    return np.bincount(bins, minlength=BINS)


def report(table: pa.Table, path: Path) -> str:
    """Means, shares and a histogram as text.

    Args:
        table: N rows with `n`, `pass_rate` and `model`.
        path: of the table.
    """
    rates = known(table)
    unknown = len(table) - len(rates)
    untried = f", {table['n'].null_count:,} of them not tried" if table["n"].null_count else ""
    lines = [
        f"{'model':<18}{table['model'][0]}",
        f"{'tasks':<18}{len(table):,}",
        f"{'unknown (null)':<18}{unknown:,}{untried}",
    ]
    if len(rates):
        lines += [
            f"{'mean pass rate':<18}{rates.mean():.3f}",
            f"{'always solved':<18}{np.mean(rates >= 1 - ROUNDING):.1%}",
            f"{'never solved':<18}{np.mean(rates <= ROUNDING):.1%}",
            *_bars(histogram(rates)),
        ]
    return "\n".join([*lines, f"{'file':<18}{path}"])


def draw_picture(table: pa.Table, path: Path) -> None:
    """Saves the histogram; the suffix of the path is the format."""
    figure = Figure(figsize=(5, 3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rates = known(table)
    axes.bar((np.arange(BINS) + 0.5) / BINS, histogram(rates), width=0.9 / BINS)
    axes.set(xlabel="pass rate", ylabel="tasks", xlim=(0, 1))
    axes.set_title(f"{len(rates):,} of {len(table):,} tasks", fontsize="medium")
    figure.savefig(path)


def known(table: pa.Table) -> npt.NDArray[np.float64]:
    """(M,) the known pass rates."""
    return table["pass_rate"].drop_null().to_numpy()


def _bars(counts: npt.NDArray[np.int64]) -> list[str]:
    lengths = np.ceil(counts / counts.max() * BAR).astype(int)
    edges = np.arange(BINS + 1) / BINS
    return [
        f"{f'  {low:.1f} to {high:.1f}':<18}{'█' * length:<{BAR}} {count:,}"
        for low, high, length, count in zip(edges[:-1], edges[1:], lengths, counts, strict=True)
    ]
