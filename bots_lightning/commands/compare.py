"""The command `bots-lightning compare RUN RUN …`: which method learns faster, over several seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from bots_lightning.commands.parsing import CommandParser, check_outputs, command_parser, did_you_mean
from bots_lightning.evaluation.comparison.comparison import BUDGETS, compare_to_baseline
from bots_lightning.evaluation.comparison.report import draw_picture, print_tables, write_json
from bots_lightning.evaluation.comparison.resampling import CONFIDENCE, RESAMPLES, spread
from bots_lightning.evaluation.comparison.run_files import FloatArray
from bots_lightning.evaluation.comparison.run_records import SUMMARY_METRICS, RunRecord, common_evaluations, read_runs

DESCRIPTION = """\
Compares methods by their finished runs, several seeds each: how fast a method reaches the baseline's scores (TTB), how
much better it is at the same cost (BSF), its effective task ratio, and what the seeds leave open.

  bots-lightning compare runs/bots-0 runs/bots-1 runs/uniform-0 runs/uniform-1 --picture compare.png
  bots-lightning compare bots=runs/quickstart bots=runs/quickstart-2 uniform=runs/old

A run is a folder that `fit` wrote. Its method is METHOD, or else the folder's name without a trailing -SEED; runs of
the same seed are paired.
"""


def compare_command(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        args: the words after `compare`; by default those of the command line.
    """
    parser = _parser()
    options = parser.parse_args(args)
    try:
        check_outputs(options.output, options.picture)
        result = compare_runs(options.runs, options.baseline, options.score, options.interpolate)
    except (FileNotFoundError, ValueError) as error:
        parser.refuse(str(error))
    print_tables(result)
    if options.output:
        write_json(result, options.output)
    if options.picture:
        draw_picture(result, options.picture)


def compare_runs(
    words: Sequence[str], baseline: str | None = None, score: str | None = None, interpolate: bool = False
) -> dict[str, Any]:
    """Reads runs, describes every method, and compares every other one with the baseline.

    Args:
        words: run folders, or METHOD=FOLDER.
        baseline: a method; by default `uniform` if it is there, else the first.
        score: a metric, higher is better; by default the mean held-out avg@k.
        interpolate: between evaluations, in TTB and BSF.

    Returns:
        {"settings", "warnings", "methods": {NAME: `describe`}, "comparisons": {NAME: `compare_to_baseline`}}, fit for
        JSON.

    Raises:
        FileNotFoundError: a run folder is not there or not complete.
        ValueError: the runs cannot be compared, or there is no such baseline.
    """
    records, warnings = common_evaluations(read_runs(words, score))
    methods: dict[str, list[RunRecord]] = {record.method: [] for record in records}
    for record in sorted(records, key=lambda record: record.seed):
        methods[record.method].append(record)
    baseline = baseline or ("uniform" if "uniform" in methods else next(iter(methods)))
    if baseline not in methods:
        hint = did_you_mean(baseline, methods)
        raise ValueError(f"--baseline {baseline}: no such method; the runs are of {', '.join(methods)}{hint}")
    settings = {
        "baseline": baseline,
        "score": list(records[0].score_columns),
        "iterations": records[0].iterations.tolist(),
        "budgets": list(BUDGETS),
        "interpolate": interpolate,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
    }
    pairs = {name: _pairs(runs, methods[baseline]) for name, runs in methods.items() if name != baseline}
    return {
        "settings": settings,
        "warnings": warnings + _unpaired(methods, baseline) + _maybe_further_runs(words, list(methods)),
        "methods": {name: describe(runs) for name, runs in methods.items()},
        "comparisons": {name: compare_to_baseline(paired, interpolate) for name, paired in pairs.items()},
    }


def describe(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Metrics of a method, with their spread over its runs, and its mean curves over seeds."""
    points = [spread(scores) for scores in np.array([run.scores for run in runs]).T.tolist()]
    steps = reduce(np.intersect1d, [run.ratio_steps for run in runs])
    picked = [np.isin(run.ratio_steps, steps) for run in runs]
    return {
        "seeds": [run.seed for run in runs],
        "folders": [str(run.folder) for run in runs],
        "final_score": points[-1],
        **{name: spread([run.summary[name] for run in runs]) for name in SUMMARY_METRICS},
        "score_curve": {
            "iterations": runs[0].iterations.tolist(),
            **{axis: _mean([run.costs[axis] for run in runs]) for axis in runs[0].costs},
            **{name: [point[name] for point in points] for name in ("mean", "std", "interval")},
        },
        "effective_task_ratio_curve": {
            "iterations": steps.tolist(),
            "rollouts": _mean([run.ratio_rollouts[kept] for run, kept in zip(runs, picked, strict=True)]),
            "mean": _mean([run.ratios[kept] for run, kept in zip(runs, picked, strict=True)]),
        },
    }


def _pairs(runs: Sequence[RunRecord], baseline: Sequence[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    partners = {run.seed: run for run in baseline}
    return [(run, partners[run.seed]) for run in runs if run.seed in partners]


def _unpaired(methods: Mapping[str, Sequence[RunRecord]], baseline: str) -> list[str]:
    """Says which seeds have no partner, and so count in a method's own metrics only."""
    seeds = {name: {run.seed for run in runs} for name, runs in methods.items()}
    return [
        f"{name} and {baseline} do not share seed {', '.join(map(str, sorted(alone)))}: not in the comparison of the "
        "two, only in the metrics of a method by itself."
        for name in seeds
        if (alone := seeds[name] ^ seeds[baseline])
    ]


def _mean(curves: list[FloatArray]) -> list[float]:
    return np.mean(curves, axis=0).tolist()


def _maybe_further_runs(words: Sequence[str], methods: Sequence[str]) -> list[str]:
    """Names methods whose folder may be a second attempt at another one's seed: `bots-0-2` beside `bots-0`."""
    stems = {name: re.sub(r"(-\d+)+$", "", name) for name in methods}
    return [
        f"{name} is compared as a method of its own. If it is a run of {stem}, write {stem}=FOLDER."
        for name, stem in stems.items()
        if stem != name and stem in methods and not any(word.startswith(f"{name}=") for word in words)
    ]


def _parser() -> CommandParser:
    parser = command_parser("bots-lightning compare", DESCRIPTION)
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="Run folders, or METHOD=FOLDER.")
    parser.add_argument(
        "--baseline",
        type=str,
        metavar="METHOD",
        help="What to compare with; `uniform` if there, else the first method.",
    )
    parser.add_argument(
        "--score", type=str, metavar="METRIC", help="A column of metrics.csv, higher is better; mean held-out avg@k."
    )
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help="Join evaluations by straight lines; else a score is reached at the first evaluation that shows it.",
    )
    parser.add_argument("--output", type=str, metavar="FILE.json", help="Where to write all metrics.")
    parser.add_argument("--picture", type=str, metavar="FILE.png", help="Where to draw the curves.")
    return parser
