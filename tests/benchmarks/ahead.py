"""The quickstart with asynchronous rollouts: what it learns, and how long it takes against synchronous runs.

    OMP_NUM_THREADS=1 python tests/benchmarks/ahead.py --seeds 0 1 2

Runs alternate, `max_staleness` 0 and 1 with each seed. Seconds are those of training by the clock, evaluations left
out: the sum of `step_time`. With one thread a phase uses one core, and the two phases can use two; with more, each
phase has all cores already, and nothing is to be gained on one machine. The machine must be quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from bots_lightning.evaluation import read_metrics

ROOT = Path(__file__).parents[2]
COLUMNS = (
    "seed",
    "synchronous",
    "ETR",
    "asynchronous",
    "ETR ",
    "|Δ log p|",
    "s a step, synchronous",
    "asynchronous ",
    "ratio of seconds",
)


def run(folder: Path, seed: int, staleness: int, more: list[str]) -> dict[str, Any]:
    """One run: scores before and after, ETR, seconds of its steps, and of the median step."""
    name = f"{staleness}-{seed}"
    words = ["fit", "--config", "configs/quickstart.yaml", "--seed_everything", str(seed), "--runs_dir", str(folder)]
    words += ["--name", name, "--model.sampler.max_staleness", str(staleness), *more]
    subprocess.run([sys.executable, "-m", "bots_lightning", *words], cwd=ROOT, check=True, capture_output=True)
    summary = json.loads((folder / name / "summary.json").read_text())
    steps = [row for row in read_metrics(folder / name / "metrics.csv") if "step_time" in row]
    scores = summary["evaluation"]
    return {
        "before": scores["before"]["overall"],
        "after": scores["after"]["overall"],
        "etr": summary["effective_task_ratio"],
        "seconds": sum(row["step_time"] for row in steps),
        "step": median(row["step_time"] for row in steps[1:]),
        "gap": mean(row.get("sampling/sampling_logp_difference/mean", 0.0) for row in steps[1:]),
    }


def main() -> None:
    """Runs all seeds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options, more = parser.parse_known_args()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    table = Table(title=f"quickstart, threads: {threads}")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    ratios = []
    with TemporaryDirectory() as folder:
        for seed in options.seeds:
            synchronous, asynchronous = (run(Path(folder), seed, staleness, more) for staleness in (0, 1))
            ratios.append(asynchronous["seconds"] / synchronous["seconds"])
            learnt = [f"{of['before']:.3f} → {of['after']:.3f}" for of in (synchronous, asynchronous)]
            rates = [f"{of['etr']:.3f}" for of in (synchronous, asynchronous)]
            steps = [f"{of['step']:.3f}" for of in (synchronous, asynchronous)]
            cells = [
                learnt[0],
                rates[0],
                learnt[1],
                rates[1],
                f"{asynchronous['gap']:.4f}",
                *steps,
                f"{ratios[-1]:.2f}",
            ]
            table.add_row(str(seed), *cells)
    console = Console(width=max(120, Console().width))
    console.print(table)
    console.print(f"ratio: median {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
