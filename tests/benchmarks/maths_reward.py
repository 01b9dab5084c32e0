"""Completions that the maths reward grades in a second, once its workers have started.

    python tests/benchmarks/maths_reward.py
    python tests/benchmarks/maths_reward.py --data gsm8k_test.jsonl --num_workers 2

Each item is a worked solution as completion and as answer: those of `--data` (JSON lines with an `answer`), or sums of
this program's own. "formulas", a tenth as many, asks for algebra besides: every answer is an expression, and typed
otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bots_lightning.rewards.maths import MathReward

Items = list[tuple[str, str]]


def sums(items: int) -> Items:
    """Worked sums with a final number."""
    draw, texts = random.Random(0), []
    for _ in range(items):
        a, b = draw.randrange(1000), draw.randrange(1000)
        texts.append(f"He has {a} and gets {b}, so he has {a}+{b} = <<{a}+{b}={a + b}>>{a + b}.\n#### {a + b:,}")
    return [(text, text) for text in texts]


def formulas(items: int) -> Items:
    """Expressions that only algebra shows to be the same."""
    draw, found = random.Random(0), []
    for _ in range(items):
        a, b, c = (draw.randrange(2, 50) for _ in range(3))
        found.append((rf"Hence $\boxed{{(x+{a})({b}x-{c})}}$.", rf"{b}x^2 + {a * b - c}x - {a * c}"))
    return found


def of_file(path: Path) -> Items:
    """The answers of a file, each as completion too."""
    answers = [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [(answer if "\n" in answer else rf"\boxed{{{answer}}}", answer) for answer in answers]


def items_per_second(reward: MathReward, items: Items) -> tuple[float, float, int]:
    """Items per second, the share that is right, and the timeouts."""
    completions, answers = zip(*items, strict=True)
    start = time.perf_counter()
    rewards = reward(completions, completions, answers)
    seconds = time.perf_counter() - start
    return len(items) / seconds, sum(rewards) / len(items), reward.outcomes.timeouts


def main() -> None:
    """Measures each set of items and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSON lines with an answer each; by default sums of its own.")
    parser.add_argument("--items", type=int, default=2000, help="Of each set that the program makes.")
    parser.add_argument("--num_workers", type=int, help="By default one per core.")
    options = parser.parse_args()
    sets = {str(options.data): of_file(options.data)} if options.data else {"sums": sums(options.items)}
    sets["formulas"] = formulas(max(1, options.items // 10))
    reward = MathReward(num_workers=options.num_workers)
    reward(["?"] * 64, ["0"] * 64, ["0"] * 64)  # the workers start
    table = Table("items", "number", "items/s", "right", "timeouts", title="maths reward")
    for name, items in sets.items():
        speed, right, timeouts = items_per_second(reward, items)
        table.add_row(name, f"{len(items):,}", f"{speed:,.0f}", f"{right:.2%}", str(timeouts))
    Console().print(table)
    reward.close()


if __name__ == "__main__":
    main()
