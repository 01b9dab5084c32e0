"""Milliseconds and bytes a task of one selection, from a thousand to ten million tasks, beside the textbook version.

    python tests/benchmarks/selection.py
    python tests/benchmarks/selection.py --sizes 1000000 --references continuous

One selection is draw + choice of 32 tasks + update. The textbook version updates and draws for every task and takes the
best with numpy, in the same process. "few tried" is a run of some steps, "all tried" one that has seen every task.
Medians over the repeats; the ratio is textbook over ours. Memory is what selector and belief hold beyond the pool's own
columns, by tracemalloc.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
from bots_lightning.selection import FairShareSelector, ProportionalSelector, TaskSelector, ThompsonSelector

BATCH, ROLLOUTS = 32, 8.0
LINE = "{:<22} {:>11} {:>5} {:>10} {:>11} {:>9} {:>10} {:>8} {:>7}"
SELECTORS: dict[str, Callable[[], TaskSelector]] = {
    "bots": lambda: ThompsonSelector(BetaBelief(implicit=ReferenceInterpolation("weak", "strong"))),
    "bots explicit": lambda: ThompsonSelector(BetaBelief(implicit_weight=0.0)),
    "mopps": lambda: ThompsonSelector(VisitedBetaBelief()),
    "ability, fair shares": lambda: FairShareSelector(AbilityBelief()),
    "ability, Thompson": lambda: ThompsonSelector(AbilityBelief()),
    "ability, proportional": lambda: ProportionalSelector(AbilityBelief()),
}


@dataclass
class Measured:
    """One line of the table."""

    select: float  # milliseconds
    observe: float
    slowest: float
    textbook: float
    bytes_per_task: float


def pool_of(num_tasks: int, continuous: bool) -> TaskFeatures:
    """Two reference columns, of 8 rollouts each or of continuous rates."""
    rng = np.random.default_rng(0)
    names = ("weak", "strong")
    rates = {name: rng.random(num_tasks) if continuous else rng.integers(0, 9, num_tasks) / 8 for name in names}
    return TaskFeatures(num_tasks, rates, fingerprint="benchmark")


def evidence_of(tasks: np.ndarray, rng: np.random.Generator) -> Evidence:
    """Success counts that lie anywhere."""
    return Evidence(tasks, rng.integers(0, ROLLOUTS + 1, len(tasks)).astype(float), np.full(len(tasks), ROLLOUTS))


def pretend_all_tried(belief: Belief, num_tasks: int, rng: np.random.Generator) -> None:
    """The state after as many visits as there are tasks, some steps ago; observing them all would take minutes."""
    state = belief.state_dict()
    if isinstance(belief, AbilityBelief):
        state |= {"logit": rng.normal(0, 2, num_tasks), "variance": rng.uniform(0.3, 2, num_tasks)}
    else:
        state["successes"] = rng.integers(0, ROLLOUTS + 1, num_tasks).astype(float)
        state["failures"] = ROLLOUTS - state["successes"]
    if "last" in state:
        state |= {"last": rng.integers(1, 300, num_tasks).astype(np.int32), "step": 300}
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


def measure(new: Callable[[], TaskSelector], features: TaskFeatures, all_tried: bool, repeats: int) -> Measured:
    """Sets a selector up, lets it run, and times it."""
    rng, num_tasks = np.random.default_rng(1), features.num_tasks
    selector = new()
    features.group_codes  # noqa: B018 - computed once for the pool, not the selector's
    tracemalloc.start()
    selector.setup(features, seed=0)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    if all_tried:
        pretend_all_tried(selector.belief, num_tasks, rng)  # type: ignore[attr-defined]
    times = []
    for step in range(repeats + 5):
        start = time.perf_counter()
        chosen = selector.select(BATCH)
        middle = time.perf_counter()
        selector.observe(evidence_of(chosen, rng))
        end = time.perf_counter()
        if step >= 5:  # the first ones find the radius and fill caches
            times.append((1e3 * (middle - start), 1e3 * (end - middle)))
    select, observe = np.array(times).T
    belief = selector.belief  # type: ignore[attr-defined]
    textbook = textbook_step(belief, features, rng)
    if textbook < 5_000:
        textbook = float(np.median([textbook, *(textbook_step(belief, features, rng) for _ in range(2))]))
    slowest = float((select + observe).max())
    return Measured(float(np.median(select)), float(np.median(observe)), slowest, textbook, held / num_tasks)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**n for n in range(3, 8)])
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS), choices=list(SELECTORS))
    parser.add_argument("--references", default="counts", choices=["counts", "continuous"])
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    print(f"One selection of {BATCH} tasks; references: {options.references}")
    print(
        LINE.format("selector", "tasks", "tried", "select ms", "observe ms", "slowest", "textbook", "ratio", "B/task")
    )
    for size in options.sizes:
        features = pool_of(size, options.references == "continuous")
        for name in options.selectors:
            for all_tried in (False, True):
                m = measure(SELECTORS[name], features, all_tried, options.repeats)
                times = (f"{value:.2f}" for value in (m.select, m.observe, m.slowest, m.textbook))
                ratio, tried = m.textbook / (m.select + m.observe), "all" if all_tried else "few"
                memory = f"{m.bytes_per_task:.1f}" if size >= 10**5 else "-"  # below, fixed tables weigh more
                print(LINE.format(name, f"{size:,}", tried, *times, f"{ratio:.1f} x", memory), flush=True)


if __name__ == "__main__":
    main()
