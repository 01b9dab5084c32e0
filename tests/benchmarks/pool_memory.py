"""Memory and seconds to load a large pool from Parquet, in a process of its own.

    python tests/benchmarks/pool_memory.py
    python tests/benchmarks/pool_memory.py --folder /somewhere/with/space

Two files: 100,000 tasks in verl's format with chat prompts of some 1,500 characters, and a million short ones. Loaded
is the pool with its features and fingerprint, as a run does at its start. Memory is resident, in MB: of the process
before (all imports done), its peak, and when loaded; "beyond" is the peak less the file's size, imports included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 10_000
LINE = "{:<18} {:>9} {:>6} {:>8} {:>7} {:>8} {:>8} {:>8} {:>9}"


def chats(rows: range, words: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Rows in verl's format."""
    contents = [" ".join(words[rng.integers(len(words), size=200)]) + f" {row}" for row in rows]
    return pa.table(
        {
            "data_source": [f"math__{row % 7}" for row in rows],
            "prompt": [[{"role": "user", "content": content}] for content in contents],
            "ability": ["math"] * len(rows),
            "reward_model": [{"style": "rule", "ground_truth": str(row)} for row in rows],
            "extra_info": [{"index": row, "split": "train"} for row in rows],
            "qwen2.5_7b_pass_rate": rng.integers(0, 9, len(rows)) / 8,
            "qwen3_30b_pass_rate": rng.integers(0, 9, len(rows)) / 8,
        }
    )


def sums(rows: range, words: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Short rows with ids."""
    return pa.table(
        {
            "id": [f"task-{row}" for row in rows],
            "prompt": [f"{row} + {row} =" for row in rows],
            "answer": [str(2 * row) for row in rows],
            "reference_pass_rate": rng.random(len(rows)),
        }
    )


def write(path: Path, num_rows: int, make: Callable[[range, np.ndarray, np.random.Generator], pa.Table]) -> None:
    """Writes a file row group by row group."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, size=rng.integers(3, 11))) for _ in range(20_000)], dtype=object)
    writer = None
    for start in range(0, num_rows, ROWS_PER_GROUP):
        table = make(range(start, min(start + ROWS_PER_GROUP, num_rows)), words, rng)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def measure(path: Path) -> dict[str, float]:
    """Loads the pool in this process."""
    from bots_lightning.tasks import ParquetTasks

    before, start = resident(), time.perf_counter()
    pool = ParquetTasks(path).load()
    loaded_after = time.perf_counter() - start
    features = pool.features()
    started_after = time.perf_counter() - start
    after, peak = resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    some = np.random.default_rng(0).integers(features.num_tasks, size=1000)
    start = time.perf_counter()
    for index in some:
        pool[index]
    seconds = {"load": loaded_after, "features": started_after, "microseconds": (time.perf_counter() - start) * 1e3}
    return {"tasks": len(pool), "before": before, "after": after, "peak": peak, **seconds}


def resident() -> float:
    """MB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Writes the files, measures each in a fresh process and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files go while it runs; a temporary folder by default")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    columns = ("tasks", "file MB", "before", "peak", "loaded", "beyond", "load s", "µs a task")
    print(LINE.format("", *columns))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, num_rows, make in (("chats", 100_000, chats), ("short rows", 1_000_000, sums)):
            path = Path(folder) / "tasks.parquet"
            write(path, num_rows, make)
            child = [sys.executable, __file__, "--measure", str(path)]
            found = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout)
            size = path.stat().st_size / 2**20
            memory = [found["before"], found["peak"], found["after"], found["peak"] - size]
            print(
                LINE.format(
                    *(name, f"{found['tasks']:,}", f"{size:.0f}", *(f"{megabytes:.0f}" for megabytes in memory)),
                    *(f"{found['features']:.1f}", f"{found['microseconds']:.0f}"),
                )
            )


if __name__ == "__main__":
    main()
