"""Milliseconds and bytes a task of one step's selection, up to ten million tasks, beside the textbook version.

    python tests/benchmarks/selection.py
    python tests/benchmarks/selection.py --sizes 1000000 --references continuous
    python tests/benchmarks/selection.py --sizes 1000000 --quotas 1 5 20

One selection is draw + choice of 32 tasks + update, by the data module with its counts and forecasts. Callbacks are the
selector's metrics, EffectiveTaskRatio and BeliefQuality, whatever they log. The textbook version updates and draws for
every task and takes the best with numpy, in the same process. "few tried" is a run of some steps, "all tried" one that
has seen every task. Medians over the repeats; the ratio is textbook over select + observe. Memory is what selector and
belief hold beyond the pool's own columns, by tracemalloc.

With --quotas, the same selection of few tried tasks with quotas for so many of 20 groups, in turns with one without,
and how many times as long it takes; "short" asks for half of each batch from a group of 30 tasks, which rest two steps.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bots_lightning.algorithms import Progress
from bots_lightning.beliefs import (
    AbilityBelief,
    Belief,
    BetaBelief,
    Evidence,
    ReferenceInterpolation,
    TaskFeatures,
    VisitedBetaBelief,
)
from bots_lightning.beliefs.beta import generalized_update
from bots_lightning.data import TaskDataModule
from bots_lightning.rollouts.segments import groups_of_rows
from bots_lightning.selection import (
    FairShareSelector,
    ProportionalSelector,
    SelectionRules,
    TaskSelector,
    ThompsonSelector,
)
from callbacks import BeliefQuality, EffectiveTaskRatio, SelectionCallback

BATCH, ROLLOUTS, GROUPS, SHORT = 32, 8, 20, 30
LINE = "{:<22} {:>11} {:>5} {:>10} {:>11} {:>12} {:>9} {:>10} {:>8} {:>7}"
SELECTORS: dict[str, Callable[..., TaskSelector]] = {
    "bots": lambda **rules: ThompsonSelector(BetaBelief(implicit=ReferenceInterpolation("weak", "strong")), **rules),
    "bots explicit": lambda **rules: ThompsonSelector(BetaBelief(implicit_weight=0.0), **rules),
    "mopps": lambda **rules: ThompsonSelector(VisitedBetaBelief(), **rules),
    "ability, fair shares": lambda **rules: FairShareSelector(AbilityBelief(), **rules),
    "ability, Thompson": lambda **rules: ThompsonSelector(AbilityBelief(), **rules),
    "ability, proportional": lambda **rules: ProportionalSelector(AbilityBelief(), **rules),
}


@dataclass
class Measured:
    """One line of the table."""

    select: float  # milliseconds
    observe: float
    callbacks: float
    slowest: float
    textbook: float
    bytes_per_task: float


class Pool:
    """What a data module needs of a pool in order to select."""

    def __init__(self, features: TaskFeatures) -> None:
        self.groups = features.groups
        self.features = lambda: features

    def __len__(self) -> int:
        return self.features().num_tasks

    def load(self) -> Pool:
        """It is a source too."""
        return self


def pool_of(num_tasks: int, continuous: bool, grouped: bool = False) -> TaskFeatures:
    """Two reference columns, of 8 rollouts each or of continuous rates; one small group and others, or none."""
    rng = np.random.default_rng(0)
    names = ("weak", "strong")
    rates = {name: rng.random(num_tasks) if continuous else rng.integers(0, 9, num_tasks) / 8 for name in names}
    groups = rng.integers(1, GROUPS, num_tasks)
    groups[rng.permutation(num_tasks)[:SHORT]] = 0
    labels = np.array([f"group {k}" for k in range(GROUPS)])[groups] if grouped else np.empty(0, dtype=np.str_)
    return TaskFeatures(num_tasks, rates, labels, fingerprint="benchmark")


def evidence_of(tasks: np.ndarray, rng: np.random.Generator) -> Evidence:
    """Success counts that lie anywhere."""
    counts = np.full(len(tasks), float(ROLLOUTS))
    return Evidence(tasks, rng.integers(0, ROLLOUTS + 1, len(tasks)).astype(float), counts)


def pretend_all_tried(belief: Belief, num_tasks: int, rng: np.random.Generator) -> None:
    """The state after as many visits as there are tasks; observing them all would take minutes."""
    state = belief.state_dict()
    if isinstance(belief, AbilityBelief):
        state |= {"logit": rng.normal(0, 2, num_tasks), "variance": rng.uniform(0.3, 2, num_tasks)}
    else:
        state["successes"] = rng.integers(0, ROLLOUTS + 1, num_tasks).astype(float)
        state["failures"] = ROLLOUTS - state["successes"]
    if "last" in state:
        steps = num_tasks // BATCH
        state |= {"last": rng.integers(1, steps + 1, num_tasks).astype(np.int32), "step": steps}
    belief.load_state_dict(state)


def textbook_step(belief: Belief, features: TaskFeatures, rng: np.random.Generator) -> float:
    """Milliseconds of the dense form: a draw for every task, the best by argpartition, and its dense update if any."""
    num_tasks = features.num_tasks
    alpha, beta = np.ones((2, num_tasks)) * 3
    weak, strong = features.references["weak"], features.references["strong"]
    start = time.perf_counter()
    if isinstance(belief, AbilityBelief):
        chosen = np.argpartition(np.abs(belief.sample(rng) - 0.5), BATCH)[:BATCH]
    else:
        chosen = np.argpartition(np.abs(rng.beta(alpha, beta) - 0.5), BATCH)[:BATCH]
    if isinstance(belief, BetaBelief):
        successes = np.zeros(num_tasks)
        successes[chosen] = 4
        pseudo = ROLLOUTS * np.clip(weak + 0.3 * (strong - weak), 0, 1)
        pseudo[chosen] = 4
        for concentration, counts in ((alpha, pseudo), (beta, ROLLOUTS - pseudo)):
            generalized_update(concentration, successes, counts, prior=1.0, forgetting=0.1, implicit_weight=0.1)
    return 1e3 * (time.perf_counter() - start)


class Step:
    """A selector in its data module, and the callbacks that exist for it."""

    def __init__(self, selector: TaskSelector, features: TaskFeatures) -> None:
        self.data = TaskDataModule(Pool(features), selector, BATCH)  # type: ignore[arg-type]
        self.data.setup()
        self.callbacks: list[SelectionCallback] = [EffectiveTaskRatio(), BeliefQuality()]
        quiet = {"callback_metrics": {}, "loggers": [], "log_every_n_steps": 1, "should_stop": False}
        self.trainer: Any = SimpleNamespace(datamodule=self.data, world_size=1, **quiet)
        self.module: Any = SimpleNamespace(progress=Progress())

    def __call__(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """Milliseconds of select, observe and callbacks."""
        self.data.forecasts.clear()
        tasks = np.array(self.data.select())
        evidence = evidence_of(tasks, rng)
        self.data.observe(evidence)
        rewards = torch.arange(ROLLOUTS) < torch.as_tensor(evidence.successes)[:, None]
        task = SimpleNamespace(group="")
        flat, rows = rewards.float().flatten(), groups_of_rows([ROLLOUTS] * BATCH)
        outputs = {"rewards": flat, "evidence": flat, "group_of_row": rows, "tasks": [task] * BATCH}
        start = time.perf_counter()
        self.data.selector.metrics()
        for callback in self.callbacks:
            callback.on_train_batch_end(self.trainer, self.module, outputs, None, 0)
        seconds = self.data.select_seconds, self.data.observe_seconds, time.perf_counter() - start
        return tuple(1e3 * each for each in seconds)  # type: ignore[return-value]


def measure(
    new: Callable[[], TaskSelector], features: TaskFeatures, all_tried: bool, repeats: int, textbooks: int
) -> Measured:
    """Sets a selector up, lets it run, and times it."""
    rng, num_tasks = np.random.default_rng(1), features.num_tasks
    features.group_codes  # noqa: B018 - computed once for the pool, not the selector's
    selector = new()
    tracemalloc.start()
    selector.setup(features, seed=0)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    step = Step(selector, features)
    belief = selector.belief  # type: ignore[attr-defined]
    if all_tried:
        pretend_all_tried(belief, num_tasks, rng)
    times = [step(rng) for _ in range(repeats + 5)][5:]  # the first ones find the radius and fill caches
    select, observe, callbacks = np.array(times).T
    textbook = float(np.median([textbook_step(belief, features, rng) for _ in range(textbooks)] or [np.nan]))
    slowest = float((select + observe + callbacks).max())
    medians = [float(np.median(each)) for each in (select, observe, callbacks)]
    return Measured(medians[0], medians[1], medians[2], slowest, textbook, held / num_tasks)


def compare_quotas(names: list[str], size: int, quotas: list[int], repeats: int) -> None:
    """Prints how many times as long a selection takes with quotas."""
    features = pool_of(size, continuous=False, grouped=True)
    rules = {"none": SelectionRules(cooldown=2)}
    rules |= {
        f"{k} of {GROUPS}": SelectionRules(2, {f"group {i + 1}": 0.9 / k for i in range(min(k, GROUPS - 1))})
        for k in quotas
    }
    rules["short"] = SelectionRules(2, {"group 0": 0.5})
    for name in names:
        selectors = {label: SELECTORS[name](rules=rule) for label, rule in rules.items()}
        for selector in selectors.values():
            selector.setup(features, seed=0)
        rng = np.random.default_rng(1)
        times: dict[str, list[float]] = {label: [] for label in rules}
        for step in range(repeats + 5):
            for label, selector in selectors.items():  # in turns: what else runs here slows all of them alike
                start = time.perf_counter()
                tasks = selector.select(BATCH)
                times[label] += [1e3 * (time.perf_counter() - start)] * (step >= 5)
                selector.observe(evidence_of(tasks, rng))
        medians = {label: float(np.median(each)) for label, each in times.items()}
        for label, median in medians.items():
            print(f"{name:<22} {size:>11,} {label:>9} {median:>9.2f} ms {median / medians['none']:>6.2f} x", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**n for n in range(3, 8)])
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS), choices=list(SELECTORS))
    parser.add_argument("--references", default="counts", choices=["counts", "continuous"])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--textbooks", type=int, default=3, help="steps of the textbook version; 0 leaves it out")
    parser.add_argument(
        "--quotas", type=int, nargs="+", help="of how many groups; compares selections with and without"
    )
    options = parser.parse_args()
    if options.quotas:
        for size in options.sizes:
            compare_quotas(options.selectors, size, options.quotas, options.repeats)
        return
    print(f"One selection of {BATCH} tasks; references: {options.references}")
    columns = ("select ms", "observe ms", "callbacks ms", "slowest", "textbook", "ratio", "B/task")
    print(LINE.format("selector", "tasks", "tried", *columns))
    for size in options.sizes:
        features = pool_of(size, options.references == "continuous")
        for name in options.selectors:
            for all_tried in (False, True):
                m = measure(SELECTORS[name], features, all_tried, options.repeats, options.textbooks)
                times = (f"{value:.2f}" for value in (m.select, m.observe, m.callbacks, m.slowest, m.textbook))
                ratio, tried = m.textbook / (m.select + m.observe), "all" if all_tried else "few"
                memory = f"{m.bytes_per_task:.1f}" if size >= 10**5 else "-"  # below, fixed tables weigh more
                print(LINE.format(name, f"{size:,}", tried, *times, f"{ratio:.1f} x", memory), flush=True)


if __name__ == "__main__":
    main()
