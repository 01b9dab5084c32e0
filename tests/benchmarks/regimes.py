"""When selection pays: rules of selection in eight regimes, each tuned alike, against uniform selection.

    python tests/benchmarks/regimes.py tune --jobs 2
    python tests/benchmarks/regimes.py claim --jobs 2
    python tests/benchmarks/regimes.py table

All rules get the same number of rollouts in a regime, and the same number of rollouts a step. `tune` chooses group size
(4, 8, 16) and learning rate (half, one, twice the regime's) of each rule in each regime, on seeds 100 to 102: all nine
on the first seed, the best three on the others; very long runs take what was chosen for long ones. `claim` makes ten
runs of what was chosen, with seeds that had no part in that. `table` prints differences from the tuned uniform
selection, with bootstrap intervals over paired seeds, and draws them. Both take `--seeds 30` for thirty seeds instead
of ten, and `--as_uniform` for runs of each rule with what was chosen for uniform selection.

Runs are those of `lean_fit`. Finished ones are kept in the results file, and not
repeated. The learning rate falls with the rollouts, not with the steps, whose number dynamic sampling does not know.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import transformers
from lean_fit import LeanFit
from matplotlib import pyplot
from tqdm import tqdm

from bots_lightning.evaluation.comparison.resampling import spread

RESULTS = Path(__file__).with_name("regimes.jsonl")
TUNING, FIRST_CLAIM, CLAIMS = (100, 101, 102), 200, 10
SIZES, RATES = (4, 8, 16), (0.5, 1.0, 2.0)
GOES_ON = 3  # so many of the nine are tried on the other tuning seeds

SOURCE = "--data.source.init_args"
QUICKSTART = ("--config", "configs/quickstart.yaml")


@dataclass(frozen=True)
class Regime:
    """A pool, a policy and a budget.

    Attributes:
        options: of `fit`.
        steps: of a run.
        rollouts: of a step.
        learning_rate: in the middle of the grid.
        evaluations: of a run.
        references: whether the pool has measured pass rates of other models.
        tuned_as: the regime whose group size and learning rate it takes, for all rules; its own by default.
    """

    options: tuple[str, ...] = QUICKSTART
    steps: int = 50
    rollouts: int = 512
    learning_rate: float = 2e-3
    evaluations: int = 3
    references: bool = True
    tuned_as: str | None = None


REGIMES = {
    "quickstart": Regime(),
    "hard_pool": Regime((*QUICKSTART, f"{SOURCE}.levels", "[4, 6, 7, 8]")),
    "small_pool": Regime((*QUICKSTART, f"{SOURCE}.num_tasks", "800")),
    "weak_start": Regime((*QUICKSTART, "--model.policy.pretrained.init_args.policy_steps", "1000")),
    "small_batches": Regime(steps=200, rollouts=128, learning_rate=1e-3),
    "reasoning_gym": Regime(("--config", "configs/reasoning_gym.yaml"), 60, learning_rate=6e-3, references=False),
    "long": Regime(steps=150, evaluations=5),
    "very_long": Regime(steps=300, evaluations=5, tuned_as="long"),
}


@dataclass(frozen=True)
class Rule:
    """A way to select tasks, or to spend rollouts on them.

    Attributes:
        options: of `fit`.
        without_references: of `fit` in a pool that has none, if others.
        draws: batches that make a step's rollouts; dynamic sampling takes one after the other, as many as it needs.
    """

    options: tuple[str, ...]
    without_references: tuple[str, ...] | None = None
    draws: int = 1


def selector(name: str) -> tuple[str, ...]:
    """The options of a selector's overlay."""
    return "--config", f"configs/selectors/{name}.yaml"


NO_QUOTAS = ("--data.selector.init_args.rules", "null")  # which configs/reasoning_gym.yaml has
RULES = {
    "uniform": Rule(selector("uniform")),
    "bots": Rule(selector("bots"), (*selector("bots_explicit"), *NO_QUOTAS)),
    "mopps": Rule(selector("mopps"), (*selector("mopps"), *NO_QUOTAS)),
    "dynamic_sampling": Rule(("--config", "configs/algorithms/dynamic_sampling.yaml"), draws=2),
    "learnability": Rule(
        selector("learnability"), (*selector("learnability"), "--data.selector.init_args.bin_by", "group")
    ),
    "ability": Rule(selector("ability"), (*selector("ability_no_reference"), *NO_QUOTAS)),
}
BASELINE, OURS = "uniform", "ability"


@dataclass(frozen=True, order=True)
class Run:
    """One run of the benchmark; `size` is its group size, `rate` a multiple of the regime's learning rate."""

    regime: str
    rule: str
    size: int
    rate: float
    seed: int

    def options(self) -> list[str]:
        """Of `fit`."""
        regime, rule = REGIMES[self.regime], RULES[self.rule]
        chosen = rule.options if regime.references else rule.without_references or rule.options
        given = {
            "--seed_everything": self.seed,
            "--model.sampler.num_generations": self.size,
            "--data.batch_size": regime.rollouts // self.size // rule.draws,
            "--model.optimizer.learning_rate": regime.learning_rate * self.rate,
            "--model.evaluation.num_generations": 16 if self.seed >= FIRST_CLAIM else 8,
        }
        return [*regime.options, *chosen, *(word for pair in given.items() for word in map(str, pair))]


def measured(run: Run) -> dict[str, Any]:
    """Makes a run; what the table needs of it."""
    regime = REGIMES[run.regime]
    fit = LeanFit(run.options(), regime.steps * regime.rollouts, regime.evaluations, quick_completions=4)
    record = fit.run()
    curve = []
    for evaluation in record.evaluations:
        completions = len(evaluation["solved"]) * evaluation["completions"]
        curve.append({"rollouts": evaluation["rollouts"], "score": sum(evaluation["solved"]) / completions})
    steps = record.steps
    rollouts = sum(step["rollouts"] for step in steps)
    return {
        "curve": curve,
        "mixed_per_1000": 1000 * sum(step["mixed"] for step in steps) / rollouts,
        "effective_task_ratio": sum(step["mixed"] for step in steps) / sum(step["groups"] for step in steps),
        "forgetting": record.forgetting,
        "tasks_seen": sum(count > 0 for count in record.selection_counts),
        "steps": len(steps),
        "rollouts": rollouts,
        "seconds": record.seconds,
    }


# --- which runs there are -------------------------------------------------------------------------------------------


class Results:
    """Finished runs, a line each in a file that may be added to.

    Args:
        path: of the file.
        seeds: how many runs a claim takes.
        as_uniform: whether claims are of rules with the group size and rate of uniform selection.
    """

    def __init__(self, path: Path, seeds: int = CLAIMS, as_uniform: bool = False) -> None:
        self.path, self.seeds, self.as_uniform = path, seeds, as_uniform
        self.runs: dict[Run, dict[str, Any]] = {}
        if path.is_file():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self.runs[Run(**entry.pop("run"))] = entry

    def add(self, run: Run, result: dict[str, Any]) -> None:
        """Keeps a finished run."""
        self.runs[run] = result
        with self.path.open("a") as file:
            file.write(json.dumps({"run": asdict(run)} | rounded(result)) + "\n")

    def has(self, runs: Sequence[Run]) -> bool:
        """Whether all of them are finished."""
        return all(run in self.runs for run in runs)

    def score(self, run: Run) -> float:
        """The final held-out score."""
        return float(self.runs[run]["curve"][-1]["score"])

    def first_tries(self, regime: str, rule: str) -> list[Run]:
        """The whole grid on the first tuning seed."""
        regime = REGIMES[regime].tuned_as or regime
        return [Run(regime, rule, size, rate, TUNING[0]) for size in SIZES for rate in RATES]

    def second_tries(self, regime: str, rule: str) -> list[Run]:
        """The best of the grid on the other tuning seeds; all of the grid has been tried on the first."""
        best = sorted(self.first_tries(regime, rule), key=self.score, reverse=True)[:GOES_ON]
        return [replace(run, seed=seed) for run in best for seed in TUNING[1:]]

    def chosen(self, regime: str, rule: str) -> Run:
        """The group size and rate with the best mean over the tuning seeds; its seed means nothing."""
        tried = {replace(run, seed=TUNING[0]) for run in self.second_tries(regime, rule)}
        return max(tried, key=lambda run: mean(self.score(replace(run, seed=seed)) for seed in TUNING))

    def claims(self, regime: str, rule: str) -> list[Run]:
        """What was chosen, on the seeds of the claim."""
        chosen = replace(self.chosen(regime, BASELINE if self.as_uniform else rule), regime=regime, rule=rule)
        return [replace(chosen, seed=FIRST_CLAIM + number) for number in range(self.seeds)]


def rounded(value: Any) -> Any:
    """Floats to five digits, in whatever holds them."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 5) if isinstance(value, float) else value


def work(results: Results, runs: Sequence[Run], jobs: int) -> None:
    """Makes the runs that are missing, several at a time, with progress."""
    missing = [run for run in dict.fromkeys(runs) if run not in results.runs]
    if not missing:
        return
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=quiet) as pool,
        tqdm(total=len(missing), unit="run", dynamic_ncols=True) as bar,
    ):
        begun = {pool.submit(measured, run): run for run in missing}
        for future in as_completed(begun):
            run = begun[future]
            results.add(run, future.result())
            bar.set_postfix_str(f"{run.regime} {run.rule} {run.size} {run.rate:g} {run.seed}")
            bar.update()


def quiet() -> None:
    """Of a worker: one thread each, and no advice of libraries."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


# --- the table and the picture --------------------------------------------------------------------------------------


def area(result: dict[str, Any]) -> float:
    """The mean held-out score over the run's rollouts, by the trapezoidal rule.

    The score at the start is that of all rules, and counts as 0 here: of use for differences only.
    """
    scores, costs = ([0.0] + [point[name] for point in result["curve"]] for name in ("score", "rollouts"))
    return float(np.trapezoid(scores, costs) / costs[-1])


MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "final": lambda result: float(result["curve"][-1]["score"]),
    "area": area,
    "forgetting": lambda result: float(result["forgetting"]),
    "mixed_per_1000": lambda result: float(result["mixed_per_1000"]),
    "tasks_seen": lambda result: float(result["tasks_seen"]),
}


def compared(results: Results) -> dict[tuple[str, str], dict[str, Any]]:
    """Of each regime and rule whose claim is complete: what was chosen, and each measure's mean and difference."""
    found = {}
    for regime, rule in product(REGIMES, RULES):
        tuned = [(regime, name) for name in dict.fromkeys((BASELINE, rule))]
        if not all(results.has(results.first_tries(*one)) and results.has(results.second_tries(*one)) for one in tuned):
            continue
        mine, theirs = results.claims(regime, rule), results.claims(regime, BASELINE)
        if not results.has(mine + theirs):
            continue
        entry: dict[str, Any] = {"size": mine[0].size, "rate": mine[0].rate}
        for name, measure in MEASURES.items():
            values = [measure(results.runs[run]) for run in mine]
            differences = [value - measure(results.runs[run]) for value, run in zip(values, theirs, strict=True)]
            entry[name] = spread(values) | {"difference": spread(differences)}
        found[regime, rule] = entry
    return found


def table(results: Results) -> str:
    """Rows of Markdown."""
    lines = ["| regime | rule | G | rate | final | − uniform | area − uniform | mixed per 1,000 | seen | forgetting |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for (regime, rule), entry in compared(results).items():
        final, seen, mixed, lost = (
            entry[name]["mean"] for name in ("final", "tasks_seen", "mixed_per_1000", "forgetting")
        )
        differences = [shown(entry[name]["difference"]) if rule != BASELINE else "" for name in ("final", "area")]
        cells = [regime, rule, entry["size"], f"{entry['rate'] * REGIMES[regime].learning_rate:g}", f"{final:.4f}"]
        cells += [*differences, f"{mixed:.0f}", f"{seen:,.0f}", f"{lost:.3f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def shown(difference: dict[str, Any]) -> str:
    """A mean and its interval."""
    low, high = difference["interval"]
    return f"{difference['mean']:+.4f} ({low:+.4f} to {high:+.4f})"


def draw(results: Results, path: Path) -> None:
    """Final differences from the tuned uniform selection with their intervals, a panel for each regime."""
    found = compared(results)
    regimes = list(dict.fromkeys(regime for regime, rule in found if rule != BASELINE))
    rules = [rule for rule in RULES if rule != BASELINE]
    figure, axes = pyplot.subplots(2, 4, figsize=(13, 5), sharex=True, sharey=True, layout="constrained")
    for axis, regime in zip(axes.flat, regimes, strict=False):
        axis.axvline(0, color="0.6", linewidth=1)
        for row, rule in enumerate(rules):
            if (regime, rule) in found:
                difference = found[regime, rule]["final"]["difference"]
                low, high = difference["interval"]
                color = "C0" if rule == OURS else "0.35"
                axis.plot([low, high], [row, row], color=color, linewidth=2)
                axis.plot(difference["mean"], row, "o", color=color)
        axis.set_title(regime.replace("_", " "))
        axis.set_yticks(range(len(rules)), [rule.replace("_", " ") for rule in rules])
        axis.set_ylim(len(rules) - 0.5, -0.5)
    figure.supxlabel("final held-out avg@16, difference from tuned uniform selection (95 % interval over ten seeds)")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Tunes, makes the runs of the claim, or shows both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["tune", "claim", "table"])
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=list(REGIMES))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=CLAIMS, help="Of a claim.")
    parser.add_argument("--as_uniform", action="store_true", help="Claims with what was chosen for uniform selection.")
    parser.add_argument("--picture", type=Path, help="Of `table`: where to draw it.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time; one torch thread each.")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    results = Results(options.results, options.seeds, options.as_uniform)
    pairs = list(product(options.regimes, options.rules))
    if options.command == "table":
        print(table(results))
        if options.picture:
            draw(results, options.picture)
        return
    work(results, [run for pair in pairs for run in results.first_tries(*pair)], options.jobs)
    work(results, [run for pair in pairs for run in results.second_tries(*pair)], options.jobs)
    if options.command == "claim":
        work(results, [run for pair in pairs for run in results.claims(*pair)], options.jobs)


if __name__ == "__main__":
    main()
