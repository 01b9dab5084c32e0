"""Runs that are killed again and again, against an undisturbed one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bots_lightning.checkpoints import damage, run_folders

ROOT = Path(__file__).parents[2]
QUICKSTART = ["--config", str(ROOT / "configs/quickstart.yaml")]
FEW_STEPS = ["--config", str(ROOT / "tests/assets/few_steps.yaml")]
STEPS_PER_KILL = 3  # that no killed process exceeds
Kills = list[tuple[str, float]]


def fit(forks: Any, folder: Path, kills: Kills, steps: int, options: list[str]) -> None:
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
def check_kills(tmp_path: Path, cache: Path, forks: Any, differences: Any, run_files: Any) -> Callable[..., None]:
    """`check_kills(kills, options)`: a run with these kills ends as the undisturbed one."""

    def check_kills(kills: Kills, options: Sequence[str] = ()) -> None:
        fit(forks, tmp_path, kills, STEPS_PER_KILL * len(kills) + 1, [*options])
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

    return check_kills
