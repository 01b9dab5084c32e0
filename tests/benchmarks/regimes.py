"""When selection pays: the quickstart in other regimes, each with several selectors and seeds.

    python tests/benchmarks/regimes.py --jobs 2
    python tests/benchmarks/regimes.py --regimes long small_pool --selectors uniform bots ability --seeds 0 1 2

Every run is a `bots-lightning fit` of its own; finished ones are kept and not repeated. At the end a table: final
held-out score, effective task ratio, and the rollouts that a selector needs for uniform selection's best score, over
what uniform selection needed (TTB; `bots-lightning compare` tells the rest).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from bots_lightning.commands.compare import compare_runs

SOURCE, STEPS = "--data.source.init_args", "--data.steps_per_epoch"
# What each regime changes in the quickstart (3,000 tasks of all levels, 50 steps of 32 tasks × 16 rollouts).
REGIMES: dict[str, list[str]] = {
    "quickstart": [],
    "long": [STEPS, "150", "--trainer.val_check_interval", "15"],
    "small_pool": [f"{SOURCE}.num_tasks", "800"],
    "large_pool": [f"{SOURCE}.num_tasks", "9000"],
    "small_batch": [
        *("--data.batch_size", "8", STEPS, "200"),
        *("--trainer.val_check_interval", "20", "--model.optimizer.learning_rate", "1e-3"),
    ],
    "few_rollouts": ["--model.sampler.num_generations", "8"],
    "hard_pool": [f"{SOURCE}.levels", "[4, 6, 7, 8]"],
    "easy_pool": [f"{SOURCE}.levels", "[1, 2, 3, 8]"],
    "weak_start": ["--model.policy.pretrained.init_args.policy_steps", "1000"],
}
COMMON = [
    "--config",
    "configs/quickstart.yaml",
    "--trainer.val_check_interval",
    "5",
    "--model.evaluation.num_generations",
    "16",
]


def fit(runs: Path, regime: str, selector: str, seed: int) -> None:
    """One run, unless it is there; its output goes to a log beside it."""
    name = f"{selector}-{seed}"
    folder = runs / regime / name
    if (folder / "summary.json").is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    overlay = ["--config", f"configs/selectors/{selector}.yaml", "--name", name, "--runs_dir", str(folder.parent)]
    command = [sys.executable, "-m", "bots_lightning", "fit", *COMMON, *overlay, "--seed_everything", str(seed)]
    with folder.with_suffix(".log").open("w") as log:
        done = subprocess.run([*command, *REGIMES[regime]], stdout=log, stderr=log, env=os.environ, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{regime}: {name} failed with exit code {done.returncode}; see {folder.with_suffix('.log')}."
        )
    print(f"{regime}: {name} done", flush=True)


def lines(runs: Path, regime: str, selectors: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """The regime's rows of the table."""
    folders = [str(runs / regime / f"{selector}-{seed}") for selector in selectors for seed in seeds]
    result = compare_runs(folders, baseline="uniform")
    rows = []
    for selector in selectors:
        method = result["methods"][selector]
        comparison = result["comparisons"].get(selector)
        ratio = "" if comparison is None else shown(comparison["time_to_baseline"]["rollouts"]["100"]["pooled"])
        final, etr = method["final_score"], method["effective_task_ratio"]["mean"]
        deviation = f" ± {final['std']:.3f}" if final["std"] is not None else ""
        rows.append(f"{regime:<14}{selector:<22}{final['mean']:.3f}{deviation:<9}{etr:>8.2f}{ratio:>12}")
    return rows


def shown(ratio: dict[str, Any]) -> str:
    """TTB of the mean curves, or what it would at least be."""
    if ratio["value"] is not None:
        return f"{ratio['value']:.2f}"
    return "-" if ratio["at_least"] is None else f">= {ratio['at_least']:.2f}"


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=list(REGIMES))
    parser.add_argument("--selectors", nargs="+", default=["uniform", "ability"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs_dir", type=Path, default=Path("runs/regimes"))
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time; one torch thread each.")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = product(options.regimes, options.seeds, options.selectors)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: fit(options.runs_dir, job[0], job[2], job[1]), jobs))
    print(f"\n{'regime':<14}{'selector':<22}{'held-out score':<14}{'ETR':>8}{'TTB':>12}")
    for regime in options.regimes:
        print("\n".join(lines(options.runs_dir, regime, options.selectors, options.seeds)))


if __name__ == "__main__":
    main()
