"""Runs an experiment's `fit` under one strategy after another, LoRA and full, by the command line's own `main`.

torchrun --nproc_per_node 2 tests/assets/quickstart_ranks.py "zero1 zero2 zero3" RUNS_DIR --config …
python tests/assets/quickstart_ranks.py single RUNS_DIR --config …
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bots_lightning.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS = {"lora": [], "full": ["--config", str(CONFIGS / "algorithms/full.yaml")]}


def run(strategy: str, kind: str, runs_dir: str, options: list[str]) -> None:
    """One run, named STRATEGY-KIND."""
    overlay = []
    if strategy != "single":
        overlay = ["--config", str(CONFIGS / f"strategies/{strategy}.yaml"), "--trainer.devices", "2"]
    names = ["--runs_dir", runs_dir, "--name", f"{strategy}-{kind}", "--trainer.accelerator", "cpu"]
    main(["fit", *options[:2], *KINDS[kind], *overlay, *options[2:], *names])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for strategy in sys.argv[1].split():
        for kind in KINDS:
            run(strategy, kind, sys.argv[2], sys.argv[3:])
