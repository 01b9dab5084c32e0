"""Finds the checkpoint from which a run resumes: `--ckpt_path last`."""

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
    """The checkpoint that `--ckpt_path` names.

    Args:
        given: a path, or "last": in the first run folder that has checkpoints, the undamaged one of the latest
            iteration.
        folders: the run folders of the run's name, the newest first.
        required: whether it is an error if there is none.

    Returns:
        its path; None if `given` is "last" and there is none.

    Raises:
        ValueError: there is no such checkpoint, or it is damaged; or all checkpoints of the run are damaged.
    """
    if given in LEFT_TO_LIGHTNING or "://" in given or ":" in given.partition("/")[0]:
        return given
    if given != "last":
        return str(_checked(Path(given)))
    for folder in folders:
        if candidates := _newest_first(folder / FOLDER):
            return str(_first_undamaged(folder, candidates))
    seen = f"there is no checkpoint in {', '.join(str(folder / FOLDER) for folder in folders)}" if folders else ""
    message = f"--ckpt_path last: {seen or 'there is no run of that name'}"
    if required:
        raise ValueError(f"{message}. Correct --runs_dir and --name, or name a checkpoint.")
    rank_zero_info(f"{message}; the run starts from scratch.")
    return None


def _checked(path: Path) -> Path:
    """A named checkpoint, if it is there and undamaged."""
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


def _first_undamaged(folder: Path, candidates: Sequence[Path]) -> Path:
    """The first undamaged checkpoint, with a warning for each that comes before."""
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
    """All checkpoints of a folder by their iteration, not by the times of files, which a copy does not keep.

    Of two from the same iteration, the newer file is first; of two from the same moment, the one called last.
    """
    found = [standing(path) for path in _names(folder)]
    return sorted(
        found, key=lambda path: (_iteration(path), path.stat().st_mtime_ns, "last" in path.name), reverse=True
    )


def _iteration(path: Path) -> float:
    """The iteration at which a checkpoint was written.

    Infinite for a damaged one, so that it comes first and a warning names it; negative for a file of another program.
    """
    try:
        state = torch.load(path / STATE if path.is_dir() else path, map_location="meta", mmap=True, weights_only=True)
        return int(state["progress"]["iterations"])
    except Exception:  # damaged bytes lead to anything; `damage` says what is wrong
        return math.inf if damage(path) else -1


def _names(folder: Path) -> set[Path]:
    """The paths of all checkpoints of a folder, with those whose successor a kill has prevented."""
    waiting = (path.with_name(path.stem.removeprefix(".")) for path in folder.glob(".*.ckpt.replaced"))
    return {path for path in folder.glob("*.ckpt") if path.exists()} | set(waiting)
