"""Programs that the code reward grades per second, in each mode that this machine offers.

    python tests/benchmarks/code_reward.py
    python tests/benchmarks/code_reward.py --programs 400 --num_workers 16

Programs are as small as can be, so that it is the sandboxes' own time: "output" runs one case of standard input, one
sandbox each; "calls" runs three assertions on a function, a sandbox for the program and one for the grader. "bare"
starts the same interpreter without any sandbox, for comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from bots_lightning.rewards.code import CodeReward, SandboxError

PROGRAM = "def f(x):\n    return 2 * x\n\nif __name__ == '__main__':\n    print(f(int(input())))\n"
TESTS = {
    "output": json.dumps({"inputs": ["4"], "outputs": ["8"]}),
    "calls": "assert f(1) == 2\nassert f(2) == 4\nassert f('a') == 'aa'",
}


def per_second(reward: CodeReward, tests: str, programs: int) -> float:
    """Programs graded per second; all of them pass."""
    started = time.perf_counter()
    rewards = reward(["?"] * programs, [PROGRAM] * programs, [tests] * programs)
    seconds = time.perf_counter() - started
    if rewards != [1.0] * programs:
        raise RuntimeError(f"{rewards.count(1.0)} of {programs} programs passed, {reward.outcomes}; expected all.")
    return programs / seconds


def bare_per_second(programs: int, workers: int) -> float:
    """Interpreters started per second, with nothing around them."""

    def run(_: int) -> None:
        subprocess.run([sys.executable, "-I", "-S", "-c", PROGRAM], input=b"4", capture_output=True, check=True)

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, range(programs)))
    return programs / (time.perf_counter() - started)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--num_workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    table = Table("mode", *(f"{kind}, programs/s" for kind in TESTS), title=f"{options.num_workers} workers")
    table.add_row("bare", f"{bare_per_second(options.programs, options.num_workers):.0f}", "")
    for mode, path in (("bubblewrap", os.environ["PATH"]), ("unisolated", "/nonexistent")):
        with patch.dict(os.environ, PATH=path):
            try:
                reward = CodeReward(num_workers=options.num_workers, allow_unisolated=mode == "unisolated")
            except SandboxError as error:
                table.add_row(mode, str(error), "")
                continue
        table.add_row(mode, *(f"{per_second(reward, tests, options.programs):.1f}" for tests in TESTS.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
