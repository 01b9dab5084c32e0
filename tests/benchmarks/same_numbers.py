"""Whether two versions of this package come to the same numbers: records short runs, and compares two records.

    python tests/benchmarks/same_numbers.py record BEFORE.json [NAME …]     # in one version
    python tests/benchmarks/same_numbers.py record AFTER.json [NAME …]      # in the other, on the same machine
    python tests/benchmarks/same_numbers.py compare BEFORE.json AFTER.json

A record holds, of each run: `metrics.csv` without clocks, digests of the final weights and of all that the selector
knows (posterior, draws, generators), and of the completions log. They are compared bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from bots_lightning.checkpoints import read_state
from bots_lightning.evaluation import read_metrics

MEASURED = re.compile(r"second|timing_s|_time$|ahead_s|overhead")
QUICK, SELECTOR, ALGORITHM = "quickstart.yaml", "selectors/{}.yaml", "algorithms/{}.yaml"
RENAMED = {"reward_shape": "reward_dispersion"}  # parts of the selector's state
TWO_RANKS = ["--trainer.devices", "2"]
# Overlays below configs/, optimizer steps, further options.
RUNS: dict[str, tuple[list[str], int, list[str]]] = {
    "bots": ([QUICK], 8, []),
    "ability": ([QUICK, SELECTOR.format("ability")], 8, []),
    "uniform": ([QUICK, SELECTOR.format("uniform")], 8, []),
    "ppo": (["quickstart_ppo.yaml"], 16, []),
    "ppo-full": (["quickstart_ppo.yaml", ALGORITHM.format("full_ppo")], 16, []),
    "full": ([QUICK, ALGORITHM.format("full")], 6, []),
    "dynamic": ([QUICK, ALGORITHM.format("dynamic_sampling")], 6, []),
    "ahead": ([QUICK, "rollouts/ahead.yaml"], 6, []),
    "ddp": ([QUICK, "strategies/ddp.yaml"], 6, TWO_RANKS),
    "zero2": ([QUICK, "strategies/zero2.yaml"], 6, TWO_RANKS),
    "zero3": ([QUICK, "strategies/zero3.yaml"], 4, TWO_RANKS),
    "reasoning-gym": (["reasoning_gym.yaml"], 6, []),
}


def digest(value: Any) -> str:
    """Of a tensor, bit for bit, or of anything else by its repr."""
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().numpy().tobytes()
        value = f"{value.dtype}{tuple(value.shape)}", hashlib.sha256(content).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Digests of what is in nested dicts, by its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{place}/{RENAMED.get(key, key)}")
    else:
        yield place, digest(value)


def weights_of(checkpoint: Path, python: list[str], folder: Path) -> list[str]:
    """Sorted digests of all trained weights; names are left out, since a redesign may change them."""
    if checkpoint.is_file():
        return sorted(digest(weight) for weight in torch.load(checkpoint, weights_only=True)["state_dict"].values())
    exported = folder / "exported"
    subprocess.run([*python, "export", "--ckpt_path", str(checkpoint), "--output", str(exported)], check=True)
    return sorted(digest(weight) for path in exported.glob("*.safetensors") for weight in load_file(path).values())


def state_of(checkpoint: Path) -> dict[str, str]:
    """Digests of the data module's state, by place."""
    saved = read_state(checkpoint) if checkpoint.is_dir() else torch.load(checkpoint, weights_only=False)
    return dict(leaves(saved["TaskDataModule"]))


def record(name: str) -> dict[str, Any]:
    """What one run comes to."""
    overlays, steps, options = RUNS[name]
    python = [sys.executable, "-m", "bots_lightning"]
    with tempfile.TemporaryDirectory() as folder:
        stacked = [word for overlay in overlays for word in ("--config", f"configs/{overlay}")]
        limits = ["--trainer.max_steps", str(steps), "--trainer.num_sanity_val_steps", "0", "--trainer.accelerator"]
        places = ["cpu", "--trainer.val_check_interval", "4", "--runs_dir", folder, "--name", name]
        command = [*python, "fit", *stacked, *limits, *places, *options]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        run = Path(folder) / name
        completions = run / "completions.jsonl"
        rows = [
            {key: repr(value) for key, value in row.items() if not MEASURED.search(key)}
            for row in read_metrics(run / "metrics.csv")
        ]
        checkpoint = run / "checkpoints/last.ckpt"
        return {
            "metrics": rows,
            "weights": weights_of(checkpoint, python, Path(folder)),
            "state": state_of(checkpoint),
            "completions": digest(completions.read_text() if completions.exists() else ""),
        }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two records of one run, a line each; a larger state is no difference."""
    found = [f"{part} differ" for part in ("weights", "completions") if before[part] != after[part]]
    known = {place: value for place, value in after["state"].items() if place in before["state"]}
    tables = [("state{}", before["state"], known)]
    tables += [
        (f"row {number}, {{}}", *rows)
        for number, rows in enumerate(zip(before["metrics"], after["metrics"], strict=False))
    ]
    if len(before["metrics"]) != len(after["metrics"]):
        found.append(f"{len(before['metrics'])} rows of metrics | {len(after['metrics'])}")
    for name, mine, theirs in tables:
        found += [
            f"{name.format(key)}: {mine.get(key)} | {theirs.get(key)}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]
    return found


def main(command: str, *words: str) -> None:
    """Records or compares."""
    if command == "record":
        path, *names = words
        records: dict[str, Any] = json.loads(Path(path).read_text()) if Path(path).exists() else {}
        for name in tqdm(names or RUNS, unit="run"):
            records[name] = record(name)
            Path(path).write_text(json.dumps(records, indent=1))
        return
    before, after = (json.loads(Path(word).read_text()) for word in words)
    failed = False
    for name in before.keys() & after.keys() if len(after) < len(before) else before:
        found = differences(before[name], after[name])
        failed |= bool(found)
        print(f"{name}: {'equal' if not found else f'{len(found)} differences'}", *found[:20], sep="\n  ")
    sys.exit(failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
