"""A run that is killed again and again, and resumed with `--ckpt_path last`, ends as the undisturbed one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bots_lightning.checkpoints import damage, run_folders
from bots_lightning.cli import main

ROOT = Path(__file__).parents[1]
QUICKSTART = ["--config", str(ROOT / "configs/quickstart.yaml")]
FEW_STEPS = ["--config", str(ROOT / "tests/assets/few_steps.yaml")]
STEPS_AHEAD = 3  # that no killed process exceeds
# Every selector, and every algorithm at least once.
SELECTORS = sorted(path.stem for path in (ROOT / "configs/selectors").glob("*.yaml"))
ALGORITHMS = sorted(path.stem for path in (ROOT / "configs/algorithms").glob("*.yaml") if path.stem != "full_ppo")
PAIRS = [
    ("quickstart_ppo" if algorithm == "ppo" else f"algorithms/{algorithm}", f"selectors/{selector}")
    for selector, algorithm in zip(SELECTORS, itertools.cycle(["ppo", *ALGORITHMS]), strict=False)
]
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


def fit(forks: Any, folder: Path, kills: list[tuple[str, float]], steps: int, options: list[str]) -> None:
    """Trains "whole" undisturbed, and "killed" in one process more than there are kills; saves after every step.

    Args:
        forks: starts processes.
        folder: of the runs.
        kills: see tests/assets/killed.py.
        steps: of either run.
        options: of the command, configs among them.
    """
    words = ["fit", *QUICKSTART, *options, *FEW_STEPS, "--runs_dir", str(folder), "--ckpt_path", "last"]
    words += ["--trainer.accelerator", "cpu", "--data.steps_per_epoch", str(steps)]
    attempts = [["whole"], *(["killed", *kill] for kill in kills), ["killed"]]
    (ended,) = forks(ROOT / "tests/assets/killed.py", [([json.dumps(attempts), *words], {})], seconds=3600)
    assert ended.code == 0, ended.said
    codes = json.loads(ended.printed.splitlines()[-1])
    assert codes == [0] + [-9] * len(kills) + [0], ended.said[-3000:]


def contents(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds, by file; other than paths, times, and Lightning's count of processes."""
    files = sorted(path.rglob("*.pt")) if path.is_dir() else [path]
    found = {file.name: torch.load(file, weights_only=False) for file in files}
    for content in found.values():
        for key in ("callbacks", "ds_config", "ds_version"):
            content.pop(key, None)
    if path.is_file():
        assert found[path.name]["TaskDataModule"]["selector"]
        assert found[path.name]["optimizer_states"][0]["state"]
    return found


@pytest.fixture
def check(tmp_path: Path, cache: Path, forks: Any, differences: Any, run_files: Any) -> Callable[..., None]:
    """`check(kills, options)`: a run with these kills ends as the undisturbed one."""

    def check(kills: list[tuple[str, float]], options: Sequence[str] = ()) -> None:
        fit(forks, tmp_path, kills, STEPS_AHEAD * len(kills) + 1, [*options])
        whole, killed = (
            tmp_path / "whole",
            run_folders(tmp_path / "killed")[0],
        )
        last = "checkpoints/last.ckpt"
        assert differences(contents(killed / last), contents(whole / last)) == []
        files = run_files(whole)
        assert files["metrics"]
        assert differences(run_files(killed), files) == []
        left = (killed / "checkpoints").iterdir()
        assert [path for path in left if path.name.startswith(".") or damage(path)] == []
        assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} <= {"whole", "killed", "made"}

    return check


def test_three_kills(check: Any) -> None:
    check([("write", 9), ("torn", 3), ("seconds", 0.2)])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PAIRS)), ids=[" ".join(pair) for pair in PAIRS])
def test_two_kills_of_every_selector_and_algorithm(number: int, check: Any) -> None:
    """With checkpoints after evaluations, or after every step."""
    options = [word for overlay in PAIRS[number] for word in ("--config", str(ROOT / f"configs/{overlay}.yaml"))]
    if number % 2:
        options += ["--config", str(ROOT / "tests/assets/every_step.yaml")]
    kinds = random_kills(3, seed=2 + number, changes_per_step=8, files_per_step=2)
    check([kinds[number % 2], kinds[2]], options)


@pytest.mark.slow
def test_thirty_kills(check: Any) -> None:
    check(random_kills(30, seed=0, changes_per_step=8, files_per_step=2))


@pytest.mark.slow
def test_ten_kills_of_two_ranks_with_zero2(check: Any, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    main(["validate", *QUICKSTART, *FEW_STEPS, "--runs_dir", str(tmp_path / "made")])  # one process fills the cache
    check(random_kills(10, seed=1, changes_per_step=40, files_per_step=6), ZERO2)
