"""The quickstart with asynchronous rollouts: what it learns, and how long it takes against synchronous runs.

    OMP_NUM_THREADS=1 python tests/benchmarks/ahead.py --seeds 0 1 2 --max_staleness 1 2 4

Runs alternate: synchronous, then each `max_staleness`, with each seed. Seconds are those of training by the clock,
evaluations left out: the sum of `step_time`. With one thread a phase uses one core, and the two phases can use two;
with more, each phase has all cores already, and nothing is to be gained on one machine. The machine must be quiet. All
other words are options of `fit`.
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
from rich.progress import track
from rich.table import Table

from bots_lightning.evaluation import read_metrics

ROOT = Path(__file__).parents[2]
COLUMNS = ("seed", "max_staleness", "before → after", "ETR", "|Δ log p|", "s a step", "waited, s", "ratio of seconds")


def run(folder: Path, seed: int, staleness: int, more: list[str]) -> dict[str, Any]:
    """One run: scores before and after, ETR, seconds of its steps, of the median step, and of waiting for rollouts."""
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
        "waited": median(row["timing_s/rollout"] for row in steps[1:]),
        "gap": mean(row.get("sampling/sampling_logp_difference/mean", 0.0) for row in steps[1:]),
    }


def main() -> None:
    """Runs all seeds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max_staleness", type=int, nargs="+", default=[1, 2, 4])
    options, more = parser.parse_known_args()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    table = Table(title=f"quickstart, threads: {threads}")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    ratios: dict[int, list[float]] = {staleness: [] for staleness in options.max_staleness}
    with TemporaryDirectory() as folder:
        for seed in track(options.seeds, "seeds", console=Console(stderr=True)):
            synchronous = run(Path(folder), seed, 0, more)
            table.add_row(*cells(seed, 0, synchronous), "1")
            for staleness, found in ratios.items():
                ahead = run(Path(folder), seed, staleness, more)
                found.append(ahead["seconds"] / synchronous["seconds"])
                table.add_row(*cells(seed, staleness, ahead), f"{found[-1]:.2f}")
    console = Console(width=max(120, Console().width))
    console.print(table)
    for staleness, found in ratios.items():
        console.print(f"{staleness}: ratio {median(found):.2f}, {min(found):.2f} to {max(found):.2f}")


def cells(seed: int, staleness: int, of: dict[str, Any]) -> list[str]:
    """A row of the table, without the ratio."""
    learnt = f"{of['before']:.3f} → {of['after']:.3f}"
    numbers = [f"{of['etr']:.3f}", f"{of['gap']:.4f}", f"{of['step']:.3f}", f"{of['waited']:.3f}"]
    return [str(seed), str(staleness), learnt, *numbers]


if __name__ == "__main__":
    main()
