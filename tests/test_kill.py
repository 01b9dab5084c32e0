"""A run that is killed again and again, and taken up with `--ckpt_path last`, ends as the undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.checkpoints import damage
from bots_lightning.cli import main

ROOT = Path(__file__).parents[1]
CONFIGS = ["--config", str(ROOT / "configs/quickstart.yaml"), "--config", str(ROOT / "tests/assets/few_steps.yaml")]
STEPS_AHEAD = 3  # that no killed process exceeds
ZERO2 = ["--config", str(ROOT / "configs/strategies/zero2.yaml"), "--trainer.devices", "2"]


def random_kills(number: int, seed: int, changes_per_step: int, files_per_step: int) -> list[tuple[str, float]]:
    """Two thirds while checkpoints are written, moved and deleted, the others at any moment."""
    rng = np.random.default_rng(seed)
    kinds = [("write", "torn", "seconds")[i % 3] for i in range(number)]
    limits = {"write": changes_per_step * STEPS_AHEAD, "torn": files_per_step * STEPS_AHEAD}
    return [
        (kind, float(rng.uniform(0.0, 0.6)) if kind == "seconds" else int(rng.integers(1, limits[kind] + 1)))
        for kind in kinds
    ]


def fit(folder: Path, kills: list[tuple[str, float]], steps: int, options: list[str]) -> None:
    """Trains "whole" undisturbed, and "killed" in one process more than there are kills; saves after every step."""
    words = ["fit", *CONFIGS, "--runs_dir", str(folder), "--ckpt_path", "last", *options]
    words += ["--trainer.accelerator", "cpu", "--data.init_args.steps_per_epoch", str(steps)]
    attempts = [["whole"], *(["killed", *kill] for kill in kills), ["killed"]]
    program = [sys.executable, str(ROOT / "tests/assets/killed.py"), json.dumps(attempts), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr
    codes = json.loads(ended.stdout.splitlines()[-1])
    assert codes == [0] + [-9] * len(kills) + [0], ended.stderr[-3000:]


def contents(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds, by its place in it; other than paths, times, and Lightning's count of processes."""
    files = sorted(path.rglob("*.pt")) if path.is_dir() else [path]
    found = {}
    for file in files:
        content = torch.load(file, weights_only=False)
        for key in ("callbacks", "ds_config", "ds_version"):
            content.pop(key, None)
        found |= {f"{file.name}{place}": leaf for place, leaf in leaves(content)}
    return found


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{place}/{key}")
    elif isinstance(value, list | tuple):
        for at, item in enumerate(value):
            yield from leaves(item, f"{place}/{at}")
    elif isinstance(value, torch.Tensor | int | float | str | bool | None):
        yield place, value


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first.nan_to_num(7.0), second.nan_to_num(7.0))
    return repr(first) == repr(second)  # NaN is NaN


def assert_the_same(first: Path, second: Path) -> None:
    mine, theirs = contents(first), contents(second)
    assert mine.keys() == theirs.keys()
    different = [place for place, leaf in mine.items() if not same(leaf, theirs[place])]
    assert different == []
    if first.is_file():
        assert any(place.startswith(f"{first.name}/TaskDataModule/selector/belief") for place in mine)
        assert any(place.startswith(f"{first.name}/optimizer_states/0/state") for place in mine)


def check(folder: Path, kills: list[tuple[str, float]], options: list[str]) -> None:
    steps = STEPS_AHEAD * len(kills) + 1
    fit(folder, kills, steps, options)
    checkpoints = folder / "killed" / "checkpoints"
    assert_the_same(folder / "whole/checkpoints/last.ckpt", checkpoints / "last.ckpt")
    assert [path for path in checkpoints.iterdir() if path.name.startswith(".") or damage(path)] == []
    assert {path.name for path in folder.iterdir()} <= {"whole", "killed", "made"}


def test_three_kills(tmp_path: Path, cache: Path) -> None:
    check(tmp_path, [("write", 9), ("torn", 3), ("seconds", 0.2)], [])


@pytest.mark.slow
def test_thirty_kills(tmp_path: Path, cache: Path) -> None:
    check(tmp_path, random_kills(30, seed=0, changes_per_step=8, files_per_step=2), [])


@pytest.mark.slow
def test_ten_kills_of_two_ranks_with_zero2(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("deepspeed")
    main(["validate", *CONFIGS, "--runs_dir", str(tmp_path / "made")])  # one process fills the cache
    check(tmp_path, random_kills(10, seed=1, changes_per_step=40, files_per_step=6), ZERO2)
