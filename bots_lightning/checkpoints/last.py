"""Where a restarted run goes on: `--ckpt_path last`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from bots_lightning.checkpoints.damage import damage
from bots_lightning.checkpoints.files import standing
from bots_lightning.checkpoints.run_folders import FOLDER
from bots_lightning.checkpoints.sharded import STATE

LEFT_TO_LIGHTNING = ("best", "hpc")


def find_checkpoint(given: str, folders: Sequence[Path], required: bool) -> str | None:
    """The checkpoint that `--ckpt_path` names; None if it is "last" and there is none to go on from.

    Args:
        given: a path, or "last": of the first run folder that has checkpoints, the whole one of the latest iteration.
        folders: the run folders of the run's name, the newest first.
        required: whether none is an error.

    Raises:
        ValueError: there is no such checkpoint, or it is damaged; all checkpoints of the run are damaged.
    """
    if given in LEFT_TO_LIGHTNING or "://" in given or ":" in given.partition("/")[0]:
        return given
    if given != "last":
        return str(_whole(Path(given)))
    for folder in folders:
        if candidates := _newest_first(folder / FOLDER):
            return str(_first_whole(folder, candidates))
    seen = f"there is no checkpoint in {', '.join(str(folder / FOLDER) for folder in folders)}" if folders else ""
    message = f"--ckpt_path last: {seen or 'there is no run of that name'}"
    if required:
        raise ValueError(f"{message}. Correct --runs_dir and --name, or name a checkpoint.")
    rank_zero_info(f"{message}; the run starts from scratch.")
    return None


def _whole(path: Path) -> Path:
    path = standing(path)
    if not path.exists():
        beside = ", ".join(str(other) for other in _newest_first(path.parent))
        hint = f"There are: {beside}." if beside else "Correct it."
        raise ValueError(f"--ckpt_path {path}: there is no such checkpoint (looked in {Path.cwd()}). {hint}")
    if fault := damage(path):
        raise ValueError(f"the checkpoint {path} is damaged: {fault}. Name another one, or --ckpt_path last.")
    if _iteration(path) < 0:
        raise ValueError(f"{path} is not a checkpoint that bots-lightning fit has written. Correct --ckpt_path.")
    return path


def _first_whole(folder: Path, candidates: Sequence[Path]) -> Path:
    for path in candidates:
        fault = damage(path)
        if not fault:
            rank_zero_info(f"--ckpt_path last: the run goes on from {path}.")
            return path
        rank_zero_warn(f"--ckpt_path last: {path} is damaged and left out: {fault}.")
    raise ValueError(
        f"all {len(candidates)} checkpoints of {folder} are damaged. Remove {folder / FOLDER} to start from scratch."
    )


def _newest_first(folder: Path) -> list[Path]:
    """All checkpoints of a folder by their iteration, whatever their files' times say, which a copy does not keep.

    Of two from the same iteration, the younger file is first; of two from the same moment, the one called last.
    """
    found = [standing(path) for path in _names(folder)]
    return sorted(
        found, key=lambda path: (_iteration(path), path.stat().st_mtime_ns, "last" in path.name), reverse=True
    )


def _iteration(path: Path) -> float:
    """At which a checkpoint was written; infinite for a damaged one, so that it is looked at and named.

    Negative for a file of another program.
    """
    try:
        state = torch.load(path / STATE if path.is_dir() else path, map_location="meta", mmap=True, weights_only=True)
        return int(state["progress"]["iterations"])
    except Exception:  # whatever bytes that are not what they were lead to; `damage` tells what is wrong
        return math.inf if damage(path) else -1


def _names(folder: Path) -> set[Path]:
    """Of those that stand, and of those that wait for a successor which a kill has prevented."""
    waiting = (path.with_name(path.stem.removeprefix(".")) for path in folder.glob(".*.ckpt.replaced"))
    return {path for path in folder.glob("*.ckpt") if path.exists()} | set(waiting)
