"""Selection on a real language model: SmolLM2-135M on short questions, rules compared at the same number of rollouts.

    python tests/benchmarks/smollm2.py references --folder smollm2
    python tests/benchmarks/smollm2.py tune --folder smollm2 --jobs 2
    python tests/benchmarks/smollm2.py claim --folder smollm2 --jobs 2
    python tests/benchmarks/smollm2.py table --folder smollm2

`references` measures the pass rates of two checkpoints, before and after a run of `configs/smollm2.yaml`, which BOTS
predicts from; the others know of no other model. `tune` tries learning rates for uniform selection on a seed of its
own, and all rules take the best one; `claim` makes five runs of each rule, `table` prints final held-out scores and
paired differences with bootstrap intervals. Runs are those of `bots-lightning fit`, one thread each, and are not
repeated once they are finished. A run takes 3 to 4 minutes of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from bots_lightning.evaluation.comparison.resampling import spread

CONFIG = "configs/smollm2.yaml"
STEPS, ROLLOUTS = 20, 64
SETTINGS = ((4, 5e-4), (4, 1e-3))  # group size, learning rate
TUNING, CLAIM = 100, tuple(range(5))
BASELINE = "uniform"
RULES: dict[str, tuple[str, ...]] = {
    BASELINE: ("--config", "configs/selectors/uniform.yaml"),
    "bots": ("--config", "configs/selectors/bots.yaml"),
    "default": (),
}
TABLES = {"weak_pass_rate": "before", "strong_pass_rate": "after"}  # reference column: name of the run that measures it


@dataclass(frozen=True)
class Run:
    """One run of the comparison."""

    rule: str
    size: int
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.rule}-{self.size}-{self.rate:g}-{self.seed}"

    def score(self, folder: Path) -> float:
        """The held-out score at its end."""
        summary = json.loads((folder / self.name / "summary.json").read_text())
        return float(summary["evaluation"]["after"]["overall"])


def command(folder: Path, *words: str) -> None:
    """Runs a command of the package on one thread; its output goes to a file beside the run."""
    program = [sys.executable, "-m", "bots_lightning", *words, "--runs_dir", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (folder / "log.txt").open("a") as log:
        subprocess.run(program, check=True, env=environment, stdout=log, stderr=log)


def fit(folder: Path, run: Run) -> None:
    """Makes a run, unless it is finished."""
    if (folder / run.name / "summary.json").is_file():
        return
    config = str(references(folder)) if run.rule == "bots" else CONFIG
    given = {
        "--name": run.name,
        "--seed_everything": run.seed,
        "--data.steps_per_epoch": STEPS,
        "--data.batch_size": ROLLOUTS // run.size,
        "--model.sampler.num_generations": run.size,
        "--model.optimizer.learning_rate": run.rate,
        "--model.evaluation.num_generations": 4,
        "--trainer.val_check_interval": STEPS,
        "--trainer.num_sanity_val_steps": 0,
    }
    command(
        folder,
        "fit",
        "--config",
        config,
        *RULES[run.rule],
        *(word for pair in given.items() for word in map(str, pair)),
    )


def references(folder: Path) -> Path:
    """The config with two measured reference columns."""
    config: Any = yaml.safe_load(Path(CONFIG).read_text())
    tables = {column: str(folder / name / "pass_rates.parquet") for column, name in TABLES.items()}
    source = {"class_path": "bots_lightning.tasks.WithPassRates"}
    config["data"]["source"] = source | {"init_args": {"source": config["data"]["source"], "tables": tables}}
    path = folder / "references.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def measure_references(folder: Path) -> None:
    """A run of the config, and the pass rates of its policy before and after it."""
    overlay = folder / "predict.yaml"
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "callbacks.PassRateWriter"}]}}))
    trained = folder / "trained" / "checkpoints" / "last.ckpt"
    if not trained.is_file():
        command(folder, "fit", "--config", CONFIG, "--name", "trained", "--seed_everything", str(TUNING))
    for name, checkpoint in (("before", ()), ("after", ("--ckpt_path", str(trained)))):
        words = ("--model.evaluation.num_generations", "4", "--name", name, *checkpoint)
        command(folder, "predict", "--config", CONFIG, "--config", str(overlay), *words)


def tried() -> list[Run]:
    """All settings, with uniform selection, on the tuning seed."""
    return [Run(BASELINE, size, rate, TUNING) for size, rate in SETTINGS]


def claims(folder: Path, rule: str) -> list[Run]:
    """A rule with the setting that was best for uniform selection, on the seeds of the claim."""
    best = max(tried(), key=lambda run: run.score(folder))
    return [replace(best, rule=rule, seed=seed) for seed in CLAIM]


def table(folder: Path) -> Table:
    """Final scores, and differences from uniform selection over paired seeds."""
    shown = Table("rule", "group size", "learning rate", "held-out avg@4", "seeds", "− uniform (95 %)")
    theirs = [run.score(folder) for run in claims(folder, BASELINE)]
    for rule in RULES:
        runs = claims(folder, rule)
        scores = [run.score(folder) for run in runs]
        difference = spread([mine - other for mine, other in zip(scores, theirs, strict=True)])
        low, high = difference["interval"]
        against = f"{difference['mean']:+.3f} ({low:+.3f} to {high:+.3f})" if rule != BASELINE else ""
        each = " ".join(f"{score:.3f}" for score in scores)
        shown.add_row(rule, str(runs[0].size), f"{runs[0].rate:g}", f"{sum(scores) / len(scores):.3f}", each, against)
    return shown


def main() -> None:
    """Measures references, tunes, makes the runs of the claim, or shows them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["references", "tune", "claim", "table"])
    parser.add_argument("--folder", type=Path, default=Path("runs/smollm2-comparison"))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time; one torch thread each.")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if options.command == "references":
        measure_references(folder)
        return
    if options.command == "table":
        Console().print(table(folder))
        return
    if options.command == "tune":
        runs = tried()
    else:
        by_rule = [claims(folder, rule) for rule in options.rules]
        runs = [run for of_seed in zip(*by_rule, strict=True) for run in of_seed]
    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in tqdm(pool.map(partial(fit, folder), runs), total=len(runs), unit="run"):
            pass


if __name__ == "__main__":
    main()
